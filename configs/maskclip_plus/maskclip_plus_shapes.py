# MaskCLIP+ on drawn scenes, without any label, minutes on two cores:
#   python tools/train.py configs/maskclip_plus/maskclip_plus_shapes.py
# Each validation prints mIoU beside teacher/mIoU, that of the MaskCLIP which gives the labels.
_base_ = [
    '../_base_/models/maskclip_plus_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    teacher=dict(decode_head=dict(refinements=[dict(type='vlm_dense.NamedBackground', names=['empty background'])])),
    compare_teacher=True,
)
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
max_iters = 400
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=100))
