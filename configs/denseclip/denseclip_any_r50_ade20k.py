# DenseCLIP's text guidance on an ImageNet ResNet-50, ADE20K. The recipe of DenseCLIP; the new pool learns at full rate.
_base_ = [
    '../_base_/models/denseclip_any_r50.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/denseclip_80k.py',
    '../_base_/default_runtime.py',
]

sync_bn = 'torch'  # of several processes
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone.attnpool': dict(lr_mult=1.0)}))
