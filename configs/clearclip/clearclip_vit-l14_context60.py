# ClearCLIP, CLIP ViT-L/14, PASCAL Context, 59 classes and the background.
_base_ = './clearclip_vit-b16_context60.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
    test_cfg=dict(window_multiple=14),
)
