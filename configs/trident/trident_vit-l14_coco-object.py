# Trident, CLIP ViT-L/14, COCO's 80 things and the background, without SAM's refinement.
_base_ = './trident_vit-b16_coco-object.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
