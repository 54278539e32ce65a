# SCLIP, CLIP ViT-L/14, COCO-Stuff, 171 classes.
_base_ = './sclip_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
