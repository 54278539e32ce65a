# ResCLIP, CLIP ViT-L/14, PASCAL Context, 59 classes and the background. Published: 30.9 mIoU.
_base_ = './resclip_vit-b16_context60.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
