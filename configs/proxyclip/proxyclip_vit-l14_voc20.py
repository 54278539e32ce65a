# ProxyCLIP, CLIP ViT-L/14, PASCAL VOC, 20 classes. Published: 83.2 mIoU.
_base_ = './proxyclip_vit-b16_voc20.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
