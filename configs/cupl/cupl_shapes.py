# Sentences about each shape instead of a template, on drawn scenes by night; nothing is trained.
#   python tools/test.py configs/cupl/cupl_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CuPLPrompt', sentences='shapes'))
test_cfg = dict(type='TestLoop')
