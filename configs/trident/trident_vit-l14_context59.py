# Trident, CLIP ViT-L/14, PASCAL Context, 59 classes, without SAM's refinement.
_base_ = './trident_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
