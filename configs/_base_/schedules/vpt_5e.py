# Of prompts of one tower in MaPLe's code: like MaPLe's, at another rate.
_base_ = './maple_5e.py'

lr = 0.0025
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=5, by_epoch=True, begin=1, end=5),
]
