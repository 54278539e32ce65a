# CALIP on the ViT of the comparisons, else as calip_shapes.py: its patches are the positions.
_base_ = './calip_shapes.py'

model = dict(
    backbone=dict(_delete_=True, type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', head=True),
    text_encoder=dict(arch='tiny-vit'),
)
