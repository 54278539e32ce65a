# DenseCLIP's text guidance on an ImageNet Swin-S, ADE20K.
_base_ = './denseclip_any_swin-t_ade20k.py'

model = dict(backbone=dict(backbone=dict(model='swin_s')))
