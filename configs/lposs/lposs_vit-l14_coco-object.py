# LPOSS, CLIP ViT-L/14, COCO's 80 things and the background.
_base_ = './lposs_vit-b16_coco-object.py'

model = dict(
    backbone=dict(arch='ViT-L-14', pretrained='laion2b_s32b_b82k'),
    text_encoder=dict(arch='ViT-L-14', pretrained='laion2b_s32b_b82k'),
)
