# ClearCLIP, CLIP ViT-L/14, ADE20K, 150 classes. Published: 15.0 mIoU.
_base_ = './clearclip_vit-b16_ade20k.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
    test_cfg=dict(window_multiple=14),
)
