# MaskCLIP, CLIP RN50, PASCAL Context, 59 classes and the background, which is found by a threshold on the
# probability.
_base_ = [
    '../_base_/models/maskclip_rn50.py',
    '../_base_/datasets/context60.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context60',
    decode_head=dict(
        refinements=[
            dict(type='vlm_dense.Aliases', keep='first'),
            dict(type='vlm_dense.ThresholdBackground', thresh=0.1),
        ]
    ),
)
