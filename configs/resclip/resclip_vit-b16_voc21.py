# ResCLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes and the background. Published: 61.1 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/voc21_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc21_background',
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.3), feedback=(2.2, 0.7), thresh=0.5)
    ),
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.1),
        dict(type='vlm_dense.SumToOne'),
    ],
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
