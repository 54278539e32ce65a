# CoOp on ImageNet, 16 shots, RN50, 16 vectors; the paper's main setting.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=16))
