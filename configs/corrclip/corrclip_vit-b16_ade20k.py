# CorrCLIP, MetaCLIP ViT-B/16, ADE20K, 150 classes; regions of SAM 2. Published: 26.9 mIoU.
_base_ = [
    '../_base_/models/corrclip_vit-b16.py',
    '../_base_/datasets/ade20k_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='ade150',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
