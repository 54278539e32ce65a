# ProxyCLIP, CLIP ViT-L/14, PASCAL VOC, 20 classes and the background. Published: 60.6 mIoU.
_base_ = './proxyclip_vit-b16_voc21.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
