# LPOSS, CLIP ViT-L/14, PASCAL VOC, 20 classes.
_base_ = './lposs_vit-b16_voc20.py'

model = dict(
    backbone=dict(arch='ViT-L-14', pretrained='laion2b_s32b_b82k'),
    text_encoder=dict(arch='ViT-L-14', pretrained='laion2b_s32b_b82k'),
)
