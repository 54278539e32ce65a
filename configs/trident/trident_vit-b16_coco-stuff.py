# Trident, CLIP ViT-B/16, COCO-Stuff, 171 classes, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/coco-stuff171_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-stuff171',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
