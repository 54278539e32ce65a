# SubPT on ImageNet, 16 shots, RN50: 50 epochs of CoOp, 10 directions, then 50 epochs. Without NFL: its names are
# ImageNet's own for the other data sets.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/subpt_10-50e.py',
    '../_base_/classification_runtime.py',
]

early, epochs, lr = 50, 50, 0.002
model = dict(text_prompt=dict(type='vlm_dense.SubPTPrompt', num_contexts=16))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=1, end=early),
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=early, end=early + 2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=early + 1, end=early + epochs),
]
train_cfg = dict(max_epochs=early + epochs, val_interval=early)
default_hooks = dict(subspace=dict(type='vlm_dense.SubspaceHook', early=early, rank=10))
