# COCO 2017: random grids of regions of the training images, of which no label is read; annotated boxes of the
# validation images to test on. Layout: DATA_ROOT/{train2017,val2017}/*.jpg and
# DATA_ROOT/annotations/instances_{train,val}2017.json.
data_root = 'data/coco'
image_size, crop_size = 1024, 224

train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.GridBoxes', max_split=6, max_boxes=20),
    dict(type='vlm_dense.PackRegions', image_size=image_size, crop_size=crop_size),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='vlm_dense.PackRegions', image_size=image_size),
]

# the published global batch is 16: 8 GPUs x 2
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='vlm_dense.CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='vlm_dense.CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='vlm_dense.RegionAccuracy')
test_evaluator = val_evaluator
