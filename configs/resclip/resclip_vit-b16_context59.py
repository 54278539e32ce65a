# ResCLIP, CLIP ViT-B/16, PASCAL Context, 59 classes. Published: 36.8 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/context59_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context59',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.4), feedback=(1.8, 0.7), thresh=0.25)
    ),
)
