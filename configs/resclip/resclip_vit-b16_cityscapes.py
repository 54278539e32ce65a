# ResCLIP, CLIP ViT-B/16, Cityscapes, 19 classes. Published: 35.9 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/cityscapes_560.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='cityscapes19',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.2), feedback=(2.1, 0.6), thresh=0.1)
    ),
)
