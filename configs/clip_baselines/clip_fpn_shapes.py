# The baseline without text of denseclip_shapes.py, same budget.
_base_ = [
    '../_base_/models/clip_fpn_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
