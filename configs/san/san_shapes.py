# SAN on drawn scenes with the bundled tiny-vit; crescents and hearts are neither shown nor named in training.
#   python tools/train.py configs/san/san_shapes.py
# Each validation prints mIoU of all 9 classes, of the 7 seen and of the 2 unseen ones, and their harmonic mean.
_base_ = [
    '../_base_/models/san_tiny-vit.py',
    '../_base_/datasets/shapes_held-out.py',
    '../_base_/schedules/san_60k.py',
    '../_base_/default_runtime.py',
]

max_iters = 600
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys={'positional_embedding': dict(lr_mult=0.1)}),
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
custom_hooks = [*_base_.custom_hooks, dict(type='vlm_dense.ClassNamesHook')]
