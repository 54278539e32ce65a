# 16 drawn scenes of each of 8 shapes by night, a domain that the bundled models have never seen.
scene = dict(type='vlm_dense.ShapesDataset', size=64, num_objects=(1, 1), label='shape', domain='night')
train_pipeline = [
    dict(type='vlm_dense.DrawScene'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='vlm_dense.PackClsInputs'),
]
test_pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')]
template = 'a photo of a {}.'

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='vlm_dense.FewShotDataset',
        shots=16,
        seed=1,
        dataset=dict(split='train', num_scenes=1000, pipeline=train_pipeline, **scene),
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='vlm_dense.FewShotDataset',
        shots=16,
        seed=1,
        at_most=4,
        dataset=dict(split='val', num_scenes=200, pipeline=test_pipeline, **scene),
    ),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', num_scenes=1000, pipeline=test_pipeline, **scene),
)
val_evaluator = dict(type='vlm_dense.Accuracy')
test_evaluator = val_evaluator

# for tools/compare.py: what changes in all data, in the test data, and in all data of a task
source = dict(domain='source')  # --protocols transfer, domain-generalisation: the training
targets = {label: dict(label=label) for label in ('colour', 'shape_colour')}  # transfer: other classes
domains = {domain: dict(domain=domain) for domain in ('sketch', 'inverted', 'noisy', 'night')}
single_tasks = {label: dict(label=label) for label in ('shape', 'colour')}  # tasks
