# A folder of images for each class: DATA_ROOT/train/<class> and DATA_ROOT/val/<class>, or DATA_ROOT/<class>; see
# docs/own_data.md. tools/train.py CONFIG --data-root DIR
data_root = 'data/own'
own = dict(type='vlm_dense.ClassFolderDataset', data_root=data_root)
size = 224
template = 'a photo of a {}.'

train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[
            dict(type='RandomResizedCrop', size=size, scale=(0.5, 1.0), interpolation='bicubic'),
            dict(type='RandomHorizontalFlip'),
        ],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=size, interpolation='bicubic'), dict(type='CenterCrop', size=size)],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **own),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', pipeline=test_pipeline, **own),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='vlm_dense.Accuracy')
test_evaluator = val_evaluator
