# LASP, 16 shots, on drawn scenes by night: a minute.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/lasp_25e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.LASPPrompt', words='a photo of a', templates='lasp', weight=5.0),
    trainable=['ln_[12]'],
)
