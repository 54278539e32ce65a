# DenseCLIP's text guidance on an ImageNet ResNet-101, ADE20K.
_base_ = './denseclip_any_r50_ade20k.py'

model = dict(backbone=dict(backbone=dict(model='resnet101')))
