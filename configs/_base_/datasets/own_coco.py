# Boxes of your own in a COCO file: DATA_ROOT/images and DATA_ROOT/annotations.json, or train.json and val.json; see
# docs/own_data.md. tools/train.py CONFIG --data-root DIR
data_root = 'data/own'
own = dict(type='vlm_dense.CocoFileDataset', data_root=data_root)
scale = (384, 384)  # the longer side of an image is made this long

train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(0.01, 0.01), keep_empty=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline, **own),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', test_mode=True, pipeline=test_pipeline, **own),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='vlm_dense.CocoMetric', metric=['bbox'])
test_evaluator = val_evaluator
