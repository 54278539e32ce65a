# ProxyCLIP, CLIP ViT-B/16, ADE20K, 150 classes. Published: 20.2 mIoU.
_base_ = [
    '../_base_/models/proxyclip_vit-b16.py',
    '../_base_/datasets/ade20k_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='ade150',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
