# CorrCLIP, MetaCLIP ViT-L/14, COCO's 80 things and the background; regions of SAM 2. Published: 49.4 mIoU.
_base_ = './corrclip_vit-b16_coco-object.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
