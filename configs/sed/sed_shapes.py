# SED on drawn scenes with the bundled tiny-rn; crescents and hearts are neither shown nor named in training.
#   python tools/train.py configs/sed/sed_shapes.py
# Each validation prints mIoU of all 9 classes, of the 7 seen and of the 2 unseen ones, and their harmonic mean.
_base_ = [
    '../_base_/models/sed_tiny-rn.py',
    '../_base_/datasets/shapes_held-out.py',
    '../_base_/schedules/sed_80k.py',
    '../_base_/default_runtime.py',
]

max_iters = 400
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.01)}),
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
custom_hooks = [*_base_.custom_hooks, dict(type='vlm_dense.ClassNamesHook')]
