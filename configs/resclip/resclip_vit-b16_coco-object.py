# ResCLIP, CLIP ViT-B/16, COCO's 80 things and the background. Published: 35.0 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/coco-object_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.4), feedback=(1.8, 0.7), thresh=0.11)
    ),
    decision=dict(prob_thresh=0.1),
)
