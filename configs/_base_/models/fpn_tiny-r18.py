# Semantic FPN on a ResNet-18 of torchvision that starts from random weights: the baseline of denseclip_any_tiny-r18.py.
_base_ = './clip_fpn_tiny-rn.py'

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='vlm_dense.TorchvisionBackbone',
        model='resnet18',
        nodes=['layer1', 'layer2', 'layer3', 'layer4'],
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
