# Zero-shot MaskCLIP+ (transductive), PASCAL Context, 59 classes and background: no labels of cow, motorbike,
# sofa, cat, boat, fence, bird, tvmonitor, keyboard and aeroplane; the background is learned. Published: 48.4 mIoU, 66.7
# on unseen classes (paper).
_base_ = [
    '../_base_/models/maskclip_plus_deeplabv3plus_rn50.py',
    '../_base_/datasets/context60.py',
    '../_base_/schedules/maskclip_plus.py',
    '../_base_/default_runtime.py',
]

unseen = [20, 34, 49, 15, 8, 25, 7, 55, 32, 1]
model = dict(
    class_names='context60',
    data_preprocessor=dict(size=(480, 480)),
    decode_head=dict(cls_bg=True),
    clip_unlabeled_cats=unseen,
    unlabeled_cats=unseen,
    start_clip_guided=(1, 3999),
    start_self_train=(4000, -1),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='PascalContextDataset',
        data_root=_base_.data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
        ann_file='ImageSets/SegmentationContext/train.txt',
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='LoadAnnotations'),
            dict(type='vlm_dense.CheckSeg', num_classes=_base_.num_classes),
            dict(type='vlm_dense.SuppressLabels', classes=unseen),
            dict(type='RandomResize', scale=(520, 520), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(480, 480), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = _base_.test_dataloader
val_evaluator = dict(type='vlm_dense.SeenUnseenIoUMetric', unseen=unseen, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=0.004, weight_decay=1e-4))
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
