# First stage of SVL-Adapter on drawn scenes by night: a small encoder learns from 500 scenes without labels which two
# views are of one scene. The second stage, svl_adapter_shapes.py, reads its last checkpoint.
_base_ = ['../_base_/datasets/shapes_few-shot.py', '../_base_/classification_runtime.py']

model = dict(
    type='vlm_dense.ContrastivePretraining',
    encoder='test_efficientnet_gn',
    hidden_channels=128,
    out_channels=64,
    temperature=0.5,
    data_preprocessor=dict(
        type='vlm_dense.ClsDataPreprocessor',
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321375, 70.32316305],
        bgr_to_rgb=True,
    ),
)
views = [
    dict(type='RandomResizedCrop', size=64, scale=(0.2, 1.0)),
    dict(type='RandomHorizontalFlip'),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
]
train_dataloader = dict(
    batch_size=50,
    dataset=dict(
        _delete_=True,
        type='vlm_dense.ShapesDataset',
        size=64,
        num_objects=(1, 1),
        label='shape',
        domain='night',
        split='train',
        num_scenes=500,
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.RandomViews', transforms=views),
            dict(type='vlm_dense.PackClsInputs'),
        ],
    ),
)
val_dataloader = val_evaluator = test_dataloader = test_evaluator = None
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=8, by_epoch=True, begin=0, end=8, convert_to_iter_based=True)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=8))
custom_hooks = [
    dict(type='vlm_dense.SeedIterationHook'),
    dict(type='vlm_dense.AverageLossesHook'),
    dict(type='vlm_dense.StopOnInvalidLoss'),
    dict(type='vlm_dense.CheckpointFitHook'),
]
