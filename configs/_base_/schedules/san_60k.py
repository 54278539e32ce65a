# SAN's recipe: AdamW, 60k iterations, polynomial decay of the learning rate, mixed precision, global batch 32.
max_iters = 60000
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'fusion': dict(decay_mult=1.0),  # its norms as well
            **{name: dict(decay_mult=0.0) for name in ('positional_embedding', 'pos_embed', 'query_embed')},
        },
    ),
    clip_grad=dict(max_norm=0.01),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
