# ClearCLIP, CLIP ViT-L/14, COCO-Stuff, 171 classes. Published: 19.9 mIoU.
_base_ = './clearclip_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
    test_cfg=dict(window_multiple=14),
)
