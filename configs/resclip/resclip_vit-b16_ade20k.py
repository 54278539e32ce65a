# ResCLIP, CLIP ViT-B/16, ADE20K, 150 classes. Published: 18.0 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/ade20k_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='ade150',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.3), feedback=(2.1, 0.7), thresh=0.25)
    ),
)
