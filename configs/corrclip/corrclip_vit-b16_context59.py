# CorrCLIP, MetaCLIP ViT-B/16, PASCAL Context, 59 classes; regions of SAM 2. Published: 48.8 mIoU.
_base_ = [
    '../_base_/models/corrclip_vit-b16.py',
    '../_base_/datasets/context59_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context59',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
