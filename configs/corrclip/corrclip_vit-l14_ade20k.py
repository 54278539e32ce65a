# CorrCLIP, MetaCLIP ViT-L/14, ADE20K, 150 classes; regions of SAM 2. Published: 30.7 mIoU.
_base_ = './corrclip_vit-b16_ade20k.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
