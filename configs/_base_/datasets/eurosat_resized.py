# EuroSAT, 16 images of each class, resized to 224 x 224 and not augmented, as SVL-Adapter's second stage sees them.
_base_ = './eurosat_few-shot.py'

resize = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=(224, 224), interpolation='bilinear')],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]
train_dataloader = dict(batch_sampler=None, dataset=dict(pipeline=resize))
val_dataloader = dict(dataset=dict(pipeline=resize))
test_dataloader = dict(dataset=dict(pipeline=resize))
