# TaI-DPT on PASCAL VOC 2007, RN50, trained on the captions of COCO 2017, one an image, and no image.
_base_ = ['./tai_dpt_coco.py', '../_base_/names/tai_dpt_voc2007.py']

model = dict(class_names={{_base_.voc_names}})
train_dataloader = dict(
    dataset=dict(synonyms='voc2007', names={{_base_.voc_names}}, dataset=dict(classes='voc2007')),
)
test_dataloader = dict(dataset=dict(name='voc2007'))
