# Trident, CLIP ViT-L/14, PASCAL Context, 59 classes and the background, without SAM's refinement.
_base_ = './trident_vit-b16_context60.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
