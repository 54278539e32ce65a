# TaI-DPT on PASCAL VOC 2007, RN50, trained on the captions of COCO 2017 and no image.
_base_ = './tai_dpt_coco.py'

train_dataloader = dict(dataset=dict(synonyms='voc2007', dataset=dict(classes='voc2007')))
test_dataloader = dict(dataset=dict(name='voc2007'))
