# MAFT+'s recipe: AdamW, the trunk at a tenth of the learning rate, 55,000 iterations, global batch 8.
max_iters = 55000
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=2e-5),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            **{
                name: dict(decay_mult=0.0)
                for name in ('query_embed', 'query_feat', 'head.level_embed', 'void_embedding')
            },
        },
    ),
    clip_grad=dict(max_norm=0.01),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
