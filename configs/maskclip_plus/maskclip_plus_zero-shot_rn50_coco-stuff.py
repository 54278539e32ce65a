# Zero-shot MaskCLIP+ (transductive), COCO-Stuff, 171 classes: no labels of
# 15 classes. Published: 39.7 mIoU, 54.7 on unseen classes (paper).
_base_ = [
    '../_base_/models/maskclip_plus_rn50.py',
    '../_base_/datasets/coco-stuff171.py',
    '../_base_/schedules/maskclip_plus.py',
    '../_base_/default_runtime.py',
]

unseen = [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160]
model = dict(
    class_names='coco-stuff171',
    clip_unlabeled_cats=unseen,
    unlabeled_cats=unseen,
    start_clip_guided=(1, 7999),
    start_self_train=(8000, -1),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='COCOStuffDataset',
        data_root=_base_.data_root,
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='LoadAnnotations'),
            dict(type='vlm_dense.CheckSeg', num_classes=_base_.num_classes),
            dict(type='vlm_dense.SuppressLabels', classes=unseen),
            dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = _base_.test_dataloader
val_evaluator = dict(type='vlm_dense.SeenUnseenIoUMetric', unseen=unseen, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
