# CorrCLIP, MetaCLIP ViT-L/14, COCO-Stuff, 171 classes; regions of SAM 2. Published: 34.0 mIoU.
_base_ = './corrclip_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14-quickgelu'),
    text_encoder=dict(arch='ViT-L-14-quickgelu'),
)
