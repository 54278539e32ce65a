# NACLIP, CLIP ViT-L/14, ADE20K, 150 classes.
_base_ = './naclip_vit-b16_ade20k.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
