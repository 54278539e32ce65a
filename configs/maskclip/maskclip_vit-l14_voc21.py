# MaskCLIP, CLIP ViT-L/14, PASCAL VOC, 20 classes and the background, which is found by a list of names.
_base_ = './maskclip_vit-b16_voc21.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
