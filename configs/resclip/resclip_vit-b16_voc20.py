# ResCLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 86.0 mIoU.
_base_ = [
    '../_base_/models/resclip_vit-b16.py',
    '../_base_/datasets/voc20_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    backbone=dict(
        dense_attention=dict(type='vlm_dense.ResCLIPAttention', cross=(2.0, 0.6), feedback=(2.1, 0.6), thresh=0.1)
    ),
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
