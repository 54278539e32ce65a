# MVLPT's: as CoOp's, with 200 epochs for every set and number of shots.
_base_ = './coop_50e.py'

max_epochs = 200
lr = 0.002
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),  # ends by restoring the rate
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
