# Hand-written prompts on drawn scenes by night of 2 to 4 objects, scored by the scaled cosine, which has no threshold
# between shown and absent: of the metrics mAP alone says something. Nothing is trained.
_base_ = [
    '../_base_/models/clip_classifier_tiny-rn.py',
    '../_base_/datasets/shapes_multi-label.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {} shape.']))
test_cfg = dict(type='TestLoop')
