# ResCLIP, CLIP ViT-B/16, PASCAL Context, 59 classes and the background. Published: 33.5 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/context60_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context60',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.3), feedback=(1.8, 0.7), thresh=0.3)
    ),
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.1),
        dict(type='vlm_dense.SumToOne'),
    ],
)
