# ProxyCLIP, CLIP ViT-L/14, Cityscapes, 19 classes. Published: 40.1 mIoU.
_base_ = './proxyclip_vit-b16_cityscapes.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
