# DualCoOp on drawn scenes by night of 2 to 4 objects; vectors of each class, as where part of the labels is known.
_base_ = [
    '../_base_/models/clip_classifier_tiny-rn.py',
    '../_base_/datasets/shapes_multi-label.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(attnpool_positions='bicubic'),
    text_prompt=dict(type='vlm_dense.DualCoOpPrompt', num_contexts=16, class_specific=True),
    loss=dict(type='vlm_dense.AsymmetricLoss', weight=0.03),
)
