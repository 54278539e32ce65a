# DenseCLIP with RetinaNet on boxes of your own with the bundled tiny-rn, to try the data: minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_retinanet_tiny-rn.py',
    '../_base_/datasets/own_coco.py',
    '../_base_/schedules/tiny_det.py',
    '../_base_/detection_runtime_iters.py',
]

model = dict(
    backbone=dict(input_resolution=800),
    neck=dict(num_outs=5),
    bbox_head=dict(num_classes=None, anchor_generator=dict(octave_base_scale=4, strides=[8, 16, 32, 64, 128])),
)
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP', rule='greater'))
