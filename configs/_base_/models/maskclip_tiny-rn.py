# MaskCLIP on the bundled tiny-rn.
_base_ = './maskclip_tiny-vit.py'

model = dict(
    backbone=dict(_delete_=True, type='vlm_dense.MaskCLIPResNet', arch='tiny-rn', pretrained='bundled'),
    text_encoder=dict(arch='tiny-rn'),
)
