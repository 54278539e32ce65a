# MaskCLIP+ without any label, COCO-Stuff, 171 classes; teacher: MaskCLIP on CLIP's RN50. Published: 13.8 mIoU.
_base_ = [
    '../_base_/models/maskclip_plus_rn50.py',
    '../_base_/datasets/coco-stuff171.py',
    '../_base_/schedules/maskclip_plus.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='coco-stuff171')
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='COCOStuffDataset',
        data_root=_base_.data_root,
        data_prefix=dict(img_path='images/train2017'),  # no masks
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(512, 512)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
train_cfg = dict(max_iters=8000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
