# LSeg's head on the bundled tiny-rn and a feature pyramid, on drawn scenes.
_base_ = [
    '../_base_/models/lseg_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
