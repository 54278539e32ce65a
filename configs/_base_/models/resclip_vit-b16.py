# ResCLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ResCLIPAttention')),
    decision=dict(sum_to_one=True, two_steps=True),
)
