# CorrCLIP, MetaCLIP ViT-L/14, Cityscapes, 19 classes; regions of SAM 2. Published: 51.1 mIoU.
_base_ = './corrclip_vit-b16_cityscapes.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
