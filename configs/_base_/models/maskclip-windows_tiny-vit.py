# MaskCLIP in the protocol of its successors, on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ValueAttention')),
)
