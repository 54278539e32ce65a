# That of the official code, which takes CoOp's; the paper names a rate of 1e-5.
_base_ = './coop_50e.py'

max_epochs = 200
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / 0.002, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=50)
