# Trident, CLIP ViT-B/16, ADE20K, 150 classes, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/ade20k_576.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='ade150',
    refine_neg_cos=False,
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
