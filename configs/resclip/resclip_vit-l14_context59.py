# ResCLIP, CLIP ViT-L/14, PASCAL Context, 59 classes. Published: 34.5 mIoU.
_base_ = './resclip_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
