# ClearCLIP on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ClearCLIPAttention')),
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=50.0),
        dict(type='vlm_dense.Aliases'),
    ],
)
