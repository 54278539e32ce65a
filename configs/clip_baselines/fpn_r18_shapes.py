# The baseline without text of denseclip_any_r18_shapes.py, same budget.
_base_ = [
    '../_base_/models/fpn_tiny-r18.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0)}))  # it learns from scratch
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
