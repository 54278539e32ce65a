# Trident, CLIP ViT-B/16, PASCAL VOC, 20 classes, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/voc20_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    cos_fac=0.0,
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
