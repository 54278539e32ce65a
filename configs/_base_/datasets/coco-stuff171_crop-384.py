# COCO-Stuff 171: training in crops of 384 px, as CAT-Seg does; tests as in coco-stuff171.py at a short side of 640 px.
# Layout besides that of coco-stuff171.py: DATA_ROOT/images/train2017, DATA_ROOT/annotations/train2017.
_base_ = './coco-stuff171.py'

crop_size = (384, 384)
num_classes = 171
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=num_classes),
    dict(type='Resize', scale=(1333, 384), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=crop_size, pad_val=dict(img=128, seg=255)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='COCOStuffDataset',
        data_root='data/coco_stuff164k',
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='COCOStuffDataset',
        data_root='data/coco_stuff164k',
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
