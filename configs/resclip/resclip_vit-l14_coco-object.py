# ResCLIP, CLIP ViT-L/14, COCO's 80 things and the background. Published: 32.5 mIoU.
_base_ = './resclip_vit-b16_coco-object.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
