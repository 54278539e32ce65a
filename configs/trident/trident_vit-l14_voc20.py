# Trident, CLIP ViT-L/14, PASCAL VOC, 20 classes, without SAM's refinement.
_base_ = './trident_vit-b16_voc20.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
