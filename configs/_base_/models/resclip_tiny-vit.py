# ResCLIP on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross_blocks=(1, 2))),
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.SumToOne'),
    ],
)
