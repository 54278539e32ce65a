# Trident, CLIP ViT-B/16, PASCAL Context, 59 classes and the background, without SAM's refinement.
_base_ = [
    '../_base_/models/trident_vit-b16.py',
    '../_base_/datasets/context60_576.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context60',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.15),
    ],
)
