# PASCAL VOC 2007, 20 classes, an image may show several; squares of 448 px as in coco2014_multi-label.py.
_base_ = './coco2014_multi-label.py'

train_dataloader = dict(dataset=dict(name='voc2007'))
test_dataloader = dict(dataset=dict(name='voc2007'))
