# ClearCLIP, CLIP ViT-L/14, PASCAL VOC, 20 classes. Published: 80.0 mIoU.
_base_ = './clearclip_vit-b16_voc20.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
    test_cfg=dict(window_multiple=14),
)
