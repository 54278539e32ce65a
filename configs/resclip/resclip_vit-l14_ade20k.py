# ResCLIP, CLIP ViT-L/14, ADE20K, 150 classes. Published: 18.2 mIoU.
_base_ = './resclip_vit-b16_ade20k.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
