# ResCLIP, CLIP ViT-B/16, COCO-Stuff, 171 classes. Published: 24.7 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/coco-stuff171_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-stuff171',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.4), feedback=(1.8, 0.7), thresh=0.11)
    ),
)
