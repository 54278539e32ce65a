# DenseCLIP's text guidance on a ResNet-18 that starts from random weights, on drawn scenes: minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_any_tiny-r18.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0)}))  # it learns from scratch
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
