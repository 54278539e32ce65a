# CAVPT's: 100 epochs, the context at a fifth of the rate. Warm-ups of an epoch, as on ImageNet; recipes of
# cavpt_imagenet.py give the 10 epochs of the image tower's tokens on other sets.
_base_ = './coop_50e.py'

max_epochs = 100
lr = 0.01
optim_wrapper = dict(
    optimizer=dict(lr=lr), paramwise_cfg=dict(custom_keys={'text_prompt.ctx': dict(lr_mult=0.2, warmup=1)})
)
param_scheduler = [
    dict(type='vlm_dense.WarmUpCosineLR', T_max=max_epochs, warmup=1, warmup_lr=1e-5, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
