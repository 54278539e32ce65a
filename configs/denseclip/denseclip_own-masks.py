# DenseCLIP on images and masks of your own with the bundled tiny-rn, to try the data: minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_tiny-rn.py',
    '../_base_/datasets/own_masks.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

max_iters = 400
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(input_resolution=256),
    decode_head=dict(num_classes=None),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200, save_best='mIoU'))
