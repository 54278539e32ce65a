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
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.1),
        dict(type='vlm_dense.SumToOne'),
    ],
)
