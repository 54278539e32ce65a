# Drawn scenes by night of 2 to 4 objects; a label for each of 8 colours.
scene = dict(type='vlm_dense.ShapesDataset', size=64, num_objects=(2, 4), label='colour', domain='night')
train_pipeline = [
    dict(type='vlm_dense.DrawScene'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]
test_pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs', multi_label=True)]
template = 'a photo of a {}.'

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', num_scenes=256, pipeline=train_pipeline, **scene),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', num_scenes=200, pipeline=test_pipeline, **scene),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', num_scenes=1000, pipeline=test_pipeline, **scene),
)
val_evaluator = dict(type='vlm_dense.MultiLabelMetric')
test_evaluator = val_evaluator
