# FC-CLIP's recipe: AdamW, 368,750 iterations with two steps, global batch 16, no warm-up.
max_iters = 368750
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            name: dict(decay_mult=0.0) for name in ('query_embed', 'query_feat', 'head.level_embed', 'void_embedding')
        },
    ),
    clip_grad=dict(max_norm=0.01),
)
param_scheduler = [dict(type='MultiStepLR', milestones=[327778, 355092], gamma=0.1, by_epoch=False, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=20000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
