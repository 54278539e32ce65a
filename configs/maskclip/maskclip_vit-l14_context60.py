# MaskCLIP, CLIP ViT-L/14, PASCAL Context, 59 classes and the background, which is found by a threshold.
_base_ = './maskclip_vit-b16_context60.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
