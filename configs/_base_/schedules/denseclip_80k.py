# The recipe of all official segmentation models: AdamW, 80k iterations, global batch 32.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1), 'norm': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='vlm_dense.WarmUpPolyLR', total=80000, power=0.9, eta_min=1e-6, warmup=1500, by_epoch=False, end=80000)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
