# WiSE-FT, 16 shots, on drawn scenes by night, end to end; the curve of mixtures also on the other domains.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(type='vlm_dense.WiSEFTHead'),
    frozen_backbone=False,
)
warmup, max_epochs = 10, 10  # of 4 iterations
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / warmup, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', T_max=4 * max_epochs - warmup, by_epoch=False, begin=warmup, end=4 * max_epochs),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
other = dict(
    type='vlm_dense.ShapesDataset',
    size=64,
    num_objects=(1, 1),
    label='shape',
    split='test',
    num_scenes=200,
    pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')],
)
loader = dict(batch_size=100, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
default_hooks = dict(
    prepare=dict(type='vlm_dense.PrepareHook'),
    wise_ft=dict(
        type='vlm_dense.WiSEFTHook',
        alpha=0.5,
        alphas=(0, 0.25, 0.5, 0.75, 1),
        shifts={
            domain: dict(loader, dataset=dict(other, domain=domain))
            for domain in ('source', 'sketch', 'inverted', 'noisy')
        },
    ),
    checkpoint=dict(interval=5),
)
