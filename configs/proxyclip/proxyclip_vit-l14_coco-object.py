# ProxyCLIP, CLIP ViT-L/14, COCO's 80 things and the background. Published: 39.2 mIoU.
_base_ = './proxyclip_vit-b16_coco-object.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
