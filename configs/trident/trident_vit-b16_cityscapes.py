# Trident, CLIP ViT-B/16, Cityscapes, 19 classes, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/cityscapes_688.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='cityscapes19',
    cos_fac=3.0,
    refine_neg_cos=False,
    halves=True,
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
