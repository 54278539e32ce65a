# DenseCLIP's text branch on a ResNet-18 of torchvision that starts from random weights, with the text tower of tiny-rn.
_base_ = './denseclip_tiny-rn.py'

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='vlm_dense.PooledBackbone',
        backbone=dict(
            type='vlm_dense.TorchvisionBackbone',
            model='resnet18',
            nodes=['layer1', 'layer2', 'layer3', 'layer4'],
        ),
        channels=[64, 128, 256, 512],
        embed_dim=128,
        input_resolution=96,
        heads=8,
    ),
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
