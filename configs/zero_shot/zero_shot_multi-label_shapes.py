# Hand-written prompts on drawn scenes by night of 2 to 4 objects, scored by the scaled cosine; nothing is trained. It has
# no threshold between shown and absent, so of the metrics mAP alone says something.
_base_ = [
    '../_base_/models/clip_classifier_tiny-rn.py',
    '../_base_/datasets/shapes_multi-label.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {} shape.']))
test_cfg = dict(type='TestLoop')
