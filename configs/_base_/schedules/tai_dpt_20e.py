# TaI-DPT's on VOC 2007 and COCO: as CoOp's, with 20 epochs and another rate.
_base_ = './coop_50e.py'

max_epochs = 20
lr = 1e-4
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs)
