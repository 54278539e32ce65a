# ResCLIP, CLIP ViT-L/14, COCO-Stuff, 171 classes. Published: 23.4 mIoU.
_base_ = './resclip_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
