# SED's recipe: AdamW, the image tower at a hundredth of the learning rate, cosine to 0, 80k iterations, global batch 4.
max_iters = 80000
norms = ['trunk.stem.1', 'downsample.0', 'trunk.head.norm', *(f'blocks.{i}.norm' for i in range(27))]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.01),
            **{norm: dict(lr_mult=0.01, decay_mult=0.0) for norm in norms},
        },
    ),
    clip_grad=dict(max_norm=0.01),
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0.0, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
