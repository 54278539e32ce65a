# ClearCLIP, CLIP ViT-L/14, Cityscapes, 19 classes. Published: 27.9 mIoU.
_base_ = './clearclip_vit-b16_cityscapes.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
    test_cfg=dict(window_multiple=14),
)
