# MaskCLIP+ without any label, PASCAL Context, 59 classes; teacher: MaskCLIP on CLIP's RN50. Published: 23.9 mIoU.
_base_ = [
    '../_base_/models/maskclip_plus_rn50.py',
    '../_base_/datasets/context59.py',
    '../_base_/schedules/maskclip_plus.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='context59', data_preprocessor=dict(size=(480, 480)))
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='PascalContextDataset59',
        data_root=_base_.data_root,
        data_prefix=dict(img_path='JPEGImages'),  # no masks
        ann_file='ImageSets/SegmentationContext/train.txt',
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='RandomResize', scale=(520, 520), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(480, 480)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
train_cfg = dict(max_iters=4000, val_interval=2000)
default_hooks = dict(checkpoint=dict(interval=2000))
