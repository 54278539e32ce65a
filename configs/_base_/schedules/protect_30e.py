# ProTeCt's: plain SGD, the rate is set once an epoch, 0.001 in the first, then a cosine. 200 epochs on small sets.
_base_ = './coop_50e.py'

max_epochs = 30
lr = 0.02
optim_wrapper = dict(optimizer=dict(lr=lr, momentum=0.0, weight_decay=0.0))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-3 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
