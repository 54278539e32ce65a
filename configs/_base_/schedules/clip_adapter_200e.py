# That of the official code, which takes CoOp's; the paper names a rate of 1e-5.
max_epochs = 200
lr = 0.002
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=lr, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),  # ends by restoring the rate
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=50)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
