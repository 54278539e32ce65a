# CorrCLIP, MetaCLIP ViT-L/14, PASCAL VOC, 20 classes; regions of SAM 2. Published: 91.5 mIoU.
_base_ = './corrclip_vit-b16_voc20.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
