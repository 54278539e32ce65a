# CorrCLIP, MetaCLIP ViT-L/14, PASCAL VOC, 20 classes and the background; regions of SAM 2. Published: 76.7 mIoU.
_base_ = './corrclip_vit-b16_voc21.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
