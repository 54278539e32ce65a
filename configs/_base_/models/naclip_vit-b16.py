# NACLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.NACLIPAttention', std=5.0)),
    decision=dict(sum_to_one=True, two_steps=True, pamr=dict(iterations=10, dilations=(8, 16))),
)
