# DenseCLIP with RetinaNet on boxes of your own with the bundled tiny-rn, to try the data: minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_retinanet_tiny-rn.py',
    '../_base_/datasets/own_coco.py',
    '../_base_/schedules/tiny_det.py',
    '../_base_/detection_runtime_iters.py',
]

max_iters = 200
model = dict(
    backbone=dict(input_resolution=640),
    neck=dict(num_outs=5),
    bbox_head=dict(num_classes=None, anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32, 64, 128])),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100, save_best='coco/bbox_mAP', rule='greater'))
