# MaskCLIP+ on drawn scenes, without any label, minutes on two cores:
#   python tools/train.py configs/maskclip_plus_shapes.py
# Each validation prints mIoU beside teacher/mIoU, that of the MaskCLIP which gives the labels.
_base_ = [
    './_base_/models/maskclip_plus_tiny.py',
    './_base_/datasets/shapes.py',
    './_base_/schedules/tiny.py',
    './_base_/default_runtime.py',
]

model = dict(
    teacher=dict(decode_head=dict(background=dict(index=0, names=['empty background']))),
    compare_teacher=True,
    # the student sees less than the teacher, strides 8 and 16 of a frozen backbone, or it would copy its mistakes
    backbone=dict(out_indices=(1, 2), frozen_stages=4),
    neck=dict(in_channels=[192, 384], num_outs=2),
    decode_head=dict(decode_module=dict(in_channels=[64, 64], in_index=[0, 1], feature_strides=[8, 16])),
)
max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.SuppressLabels'),  # takes the masks away
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    )
)
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='vlm_dense.VariantIoU', name='teacher', iou_metrics=['mIoU']),
]
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=400, save_best='mIoU'),
)
