# SubPT's: 10 epochs of CoOp for the subspace, then CoOp's 50 epochs inside of it. A config adds the hook.
_base_ = './coop_50e.py'

early, epochs, lr = 10, 50, 0.002
optim_wrapper = dict(type='vlm_dense.SubspaceOptimWrapper')
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),  # ends by restoring the rate
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=1, end=early),
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=early, end=early + 2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=early + 1, end=early + epochs),
]
train_cfg = dict(max_epochs=early + epochs, val_interval=early)
