# ProGrad, 16 shots, on drawn scenes by night.
#   python tools/train.py configs/prograd/prograd_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.ProGradPrompt', num_contexts=8))
optim_wrapper = dict(type='vlm_dense.ProGradOptimWrapper')
