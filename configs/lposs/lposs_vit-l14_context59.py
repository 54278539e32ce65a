# LPOSS, CLIP ViT-L/14, PASCAL Context, 59 classes.
_base_ = './lposs_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14', pretrained='laion2b_s32b_b82k'),
    text_encoder=dict(arch='ViT-L-14', pretrained='laion2b_s32b_b82k'),
)
