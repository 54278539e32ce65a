# CAVPT's: 60 epochs, the context at a fifth of the rate. On other sets than ImageNet the official code warms the tokens
# of the image tower up for 10 epochs.
_base_ = './coop_50e.py'

max_epochs = 60
lr = 0.01
optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(custom_keys={'text_prompt.ctx': dict(lr_mult=0.2)}))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
