# MaskCLIP's value path in the protocol of its successors: CLIP as it was trained, windows, probabilities of all names.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ValueAttention')),
)
