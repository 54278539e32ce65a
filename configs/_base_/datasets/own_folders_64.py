# own_folders.py at 64 px, the size of the bundled towers.
_base_ = './own_folders.py'

size = 64
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
