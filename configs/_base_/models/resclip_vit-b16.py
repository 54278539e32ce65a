# ResCLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ResCLIPAttention')),
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.SumToOne'),
    ],
)
