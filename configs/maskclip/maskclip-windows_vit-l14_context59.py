# MaskCLIP in its successors' windows, CLIP ViT-L/14, PASCAL Context, 59 classes.
_base_ = './maskclip-windows_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
