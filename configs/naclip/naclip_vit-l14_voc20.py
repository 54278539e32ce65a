# NACLIP, CLIP ViT-L/14, PASCAL VOC, 20 classes.
_base_ = './naclip_vit-b16_voc20.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
