# VT-CLIP on the ViT of the comparisons, else as vt_clip_shapes.py.
_base_ = './vt_clip_shapes.py'

model = dict(
    backbone=dict(_delete_=True, type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', head=True),
    text_encoder=dict(arch='tiny-vit'),
)
