# ResCLIP, CLIP ViT-L/14, Cityscapes, 19 classes. Published: 33.7 mIoU.
_base_ = './resclip_vit-b16_cityscapes.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
