# imagenet_few-shot_features.py with the milder crops of Tip-Adapter.
_base_ = './imagenet_few-shot_features.py'

train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[
            dict(type='RandomResizedCrop', size=224, scale=(0.5, 1.0), interpolation='bicubic'),
            dict(type='RandomHorizontalFlip'),
        ],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]
train_dataloader = dict(batch_size=256, dataset=dict(dataset=dict(pipeline=train_pipeline)))
