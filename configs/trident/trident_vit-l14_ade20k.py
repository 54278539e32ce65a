# Trident, CLIP ViT-L/14, ADE20K, 150 classes, without SAM's refinement.
_base_ = './trident_vit-b16_ade20k.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
