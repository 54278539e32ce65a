# SC-CLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.SCCLIPAttention')),
)
