# MaskCLIP on CLIP's RN50x16, settings of the published numbers.
_base_ = './maskclip_vit-b16.py'

model = dict(
    backbone=dict(type='vlm_dense.MaskCLIPResNet', arch='RN50x16'),
    text_encoder=dict(arch='RN50x16'),
)
