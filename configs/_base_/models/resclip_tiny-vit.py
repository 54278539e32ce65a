# ResCLIP on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross_blocks=(1, 2))),
    decision=dict(sum_to_one=True, two_steps=True),
)
