# ProxyCLIP, CLIP ViT-L/14, PASCAL Context, 59 classes. Published: 37.7 mIoU.
_base_ = './proxyclip_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
