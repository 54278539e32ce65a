# Trident, CLIP ViT-B/16, COCO's 80 things and the background, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/coco-object_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first', keep_all=[0])]),  # the background
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.25),
    ],
)
