# MaskCLIP, CLIP ViT-L/14, COCO's 80 things and the background, which is found by a list of names.
_base_ = './maskclip_vit-b16_coco-object.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
