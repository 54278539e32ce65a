# ImageNet, 16 images of each of 1000 classes, with CoOp's crops. Layout of the CoOp group, see
# docs/classification_data.md. Another place: tools/train.py ... --data-root DIR
data_root = 'data'
image_set = dict(type='vlm_dense.ImageSetDataset', name='imagenet', data_root=data_root)
few = dict(shots=16, seed=1, **image_set)
template = 'a photo of a {}.'
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[
            dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), interpolation='bicubic'),
            dict(type='RandomHorizontalFlip'),
        ],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=224, interpolation='bicubic'), dict(type='CenterCrop', size=224)],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='vlm_dense.FullBatchSampler'),  # as in CoOp's code
    dataset=dict(split='train', pipeline=train_pipeline, **few),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', pipeline=test_pipeline, **few),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=test_pipeline, **image_set),
)
val_evaluator = dict(type='vlm_dense.Accuracy')
test_evaluator = val_evaluator

# what changes in the test data for tools/compare.py: --protocols transfer, domain-generalisation
targets = {
    name: dict(name=name)
    for name in (
        'caltech101',
        'oxford_pets',
        'stanford_cars',
        'oxford_flowers',
        'food101',
        'fgvc_aircraft',
        'sun397',
        'dtd',
        'eurosat',
        'ucf101',
    )
}
domains = {name: dict(name=name) for name in ('imagenetv2', 'imagenet-sketch', 'imagenet-a', 'imagenet-r')}
