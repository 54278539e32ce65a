# CorrCLIP, MetaCLIP ViT-L/14, PASCAL Context, 59 classes and the background; regions of SAM 2. Published: 44.9 mIoU.
_base_ = './corrclip_vit-b16_context60.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
