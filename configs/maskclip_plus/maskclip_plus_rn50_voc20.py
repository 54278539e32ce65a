# MaskCLIP+ without any label, PASCAL VOC, 20 classes; teacher: MaskCLIP on CLIP's RN50. Published: 58.0 mIoU.
# Trains on the images of train_aug, as mmseg's tools/dataset_converters/voc_aug.py lists them:
# ImageSets/Segmentation/trainaug.txt.
_base_ = [
    '../_base_/models/maskclip_plus_rn50.py',
    '../_base_/datasets/voc20.py',
    '../_base_/schedules/maskclip_plus.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='voc20')
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='PascalVOCDataset',
        data_root=_base_.data_root,
        metainfo=dict(classes=_base_.classes),
        data_prefix=dict(img_path='JPEGImages'),  # no masks
        ann_file='ImageSets/Segmentation/trainaug.txt',
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
train_cfg = dict(max_iters=2000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
