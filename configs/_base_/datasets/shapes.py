# Drawn scenes, nothing to download: 8 shapes and the background. Colour says nothing about the class.
size = 96
num_classes = 9
scene = dict(
    type='vlm_dense.ShapesDataset',
    size=size,
    num_objects=(2, 5),
    label='shape',
    background=True,
)
train_pipeline = [
    dict(type='vlm_dense.DrawScene'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='PackSegInputs')]
tta_pipeline = [
    dict(type='vlm_dense.DrawScene'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 1.5)],
            [dict(type='RandomFlip', prob=0.0, direction='horizontal'), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(split='train', num_scenes=20000, pipeline=train_pipeline, **scene),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_scenes=200, pipeline=test_pipeline, **scene),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
