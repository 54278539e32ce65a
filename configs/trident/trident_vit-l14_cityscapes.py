# Trident, CLIP ViT-L/14, Cityscapes, 19 classes, without SAM's refinement.
_base_ = './trident_vit-b16_cityscapes.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
