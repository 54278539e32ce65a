# DenseCLIP on drawn scenes with the bundled tiny-rn: the embedded default, minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
