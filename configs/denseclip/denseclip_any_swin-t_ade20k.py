# DenseCLIP's text guidance on an ImageNet Swin-T, ADE20K.
_base_ = './denseclip_any_r50_ade20k.py'

model = dict(
    backbone=dict(
        backbone=dict(model='swin_t', nodes=['features.1', 'features.3', 'features.5', 'features.7']),
        channels=[96, 192, 384, 768],
    ),
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
