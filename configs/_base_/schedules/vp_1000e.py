# VP's: linear warm-up over 1000 iterations, then a cosine, set in each of 1000 epochs of 63 iterations.
max_iters = 63 * 1000
warmup = 1000
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=40, momentum=0.9, weight_decay=0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / warmup, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', T_max=max_iters - warmup, by_epoch=False, begin=warmup, end=max_iters),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1000, val_interval=50)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
