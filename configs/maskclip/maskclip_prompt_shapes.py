# MaskCLIP with a learned prompt on drawn scenes: the towers stay frozen, the vectors in front of the class names are
# trained with masks. Any text prompt of the contract goes in the same place.
_base_ = [
    '../_base_/models/maskclip_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

max_iters = 300
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=8, name_length=5),
    train_cfg=dict(),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=0, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=100)
val_cfg = dict(type='ValLoop')
default_hooks = dict(checkpoint=dict(interval=max_iters))
