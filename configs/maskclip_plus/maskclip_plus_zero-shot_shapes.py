# Zero-shot MaskCLIP+ on drawn scenes: crescents and hearts have no labels. MaskCLIP labels them at first, then the
# network itself.
#   python tools/train.py configs/maskclip_plus/maskclip_plus_zero-shot_shapes.py
# maskclip_plus_seen-only_shapes.py trains the same network on the same labels without MaskCLIP.
_base_ = [
    '../_base_/models/maskclip_plus_fpn_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

unseen = [7, 8]
max_iters = 400
model = dict(
    teacher=dict(decode_head=dict(refinements=[dict(type='vlm_dense.NamedBackground', names=['empty background'])])),
    clip_unlabeled_cats=unseen,
    unlabeled_cats=unseen,
    start_clip_guided=(1, 100),
    start_self_train=(101, -1),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.SuppressLabels', classes=unseen),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    )
)
val_evaluator = dict(type='vlm_dense.SeenUnseenIoUMetric', unseen=unseen, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=100))
