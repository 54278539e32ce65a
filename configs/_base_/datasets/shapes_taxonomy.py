# 4 drawn scenes by night of each of 64 classes ('red circle', ...) in a tree of 8 shapes.
# A config names all nodes to the model: model = dict(class_names={{_base_.nodes}}); labels count the 64.
scene = dict(type='vlm_dense.ShapesDataset', size=64, num_objects=(1, 1), label='shape_colour', domain='night')
colours = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')
nodes = []
for shape in ('circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart'):
    nodes += [shape, *[f'{colour} {shape}' for colour in colours]]
del shape
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
        shots=4,
        seed=1,
        dataset=dict(split='train', num_scenes=1000, pipeline=train_pipeline, **scene),
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='vlm_dense.FewShotDataset',
        shots=4,
        seed=1,
        at_most=4,
        dataset=dict(split='val', num_scenes=1000, pipeline=test_pipeline, **scene),
    ),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', num_scenes=1000, pipeline=test_pipeline, **scene),
)
val_evaluator = dict(type='vlm_dense.TaxonomyMetric')
test_evaluator = val_evaluator
