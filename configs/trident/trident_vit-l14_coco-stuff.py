# Trident, CLIP ViT-L/14, COCO-Stuff, 171 classes, without SAM's refinement.
_base_ = './trident_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
