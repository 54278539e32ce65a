# PromptSRC's for base-to-new: like MaPLe's. The mean over the epochs is PromptAverageHook's, which a config adds.
_base_ = './maple_5e.py'

max_epochs = 20
lr = 0.0025
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=20)
