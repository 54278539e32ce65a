# CorrCLIP, MetaCLIP ViT-L/14, PASCAL Context, 59 classes; regions of SAM 2. Published: 50.8 mIoU.
_base_ = './corrclip_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
