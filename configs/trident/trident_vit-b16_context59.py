# Trident, CLIP ViT-B/16, PASCAL Context, 59 classes, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/context59_576.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context59',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
