# SC-CLIP on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.SCCLIPAttention', pre=2, post=1, multi=(1, 3))),
)
