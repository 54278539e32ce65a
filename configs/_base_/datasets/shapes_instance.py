# Drawn scenes, nothing to download: boxes and masks of 8 shapes in COCO's format. Colour says nothing about the class.
size = 96
scene = dict(type='vlm_dense.ShapesDataset', size=size, num_objects=(2, 5), label='shape')
train_pipeline = [
    dict(type='vlm_dense.DrawScene', detection=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.DrawScene', detection=True),
    dict(type='Resize', scale=(size, size), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', num_scenes=20000, pipeline=train_pipeline, **scene),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_scenes=200, test_mode=True, pipeline=test_pipeline, **scene),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='vlm_dense.CocoMetric', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
