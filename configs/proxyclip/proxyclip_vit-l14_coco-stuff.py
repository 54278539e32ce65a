# ProxyCLIP, CLIP ViT-L/14, COCO-Stuff, 171 classes. Published: 25.6 mIoU.
_base_ = './proxyclip_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
