# DenseCLIP's text guidance on an ImageNet ResNet-18, ADE20K.
_base_ = './denseclip_any_r50_ade20k.py'

model = dict(
    backbone=dict(backbone=dict(model='resnet18'), channels=[64, 128, 256, 512]),
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
