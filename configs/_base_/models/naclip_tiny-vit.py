# NACLIP on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.NACLIPAttention', std=5.0)),
    decision=dict(sum_to_one=True, two_steps=True, pamr=dict(iterations=10, dilations=(1, 2))),
)
