# NUS-WIDE, 81 concepts, an image may show several; squares of 448 px as in coco2014_multi-label.py.
_base_ = './coco2014_multi-label.py'

train_dataloader = dict(dataset=dict(name='nus-wide'))
test_dataloader = dict(dataset=dict(name='nus-wide'))
