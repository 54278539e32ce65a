# LASP's: like CoOp's, with three epochs at 1e-5 first, clipped gradients, and a tenth of the rate in the image tower.
_base_ = './coop_50e.py'

max_epochs = 25
lr = 0.032
optim_wrapper = dict(
    optimizer=dict(lr=lr),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)
param_scheduler = [
    dict(type='vlm_dense.WarmUpCosineLR', T_max=max_epochs, warmup=3, warmup_lr=1e-5, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
