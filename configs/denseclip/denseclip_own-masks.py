# DenseCLIP on images and masks of your own with the bundled tiny-rn, to try the data: minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_tiny-rn.py',
    '../_base_/datasets/own_masks.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(input_resolution=256),
    decode_head=dict(num_classes=None),
)
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
