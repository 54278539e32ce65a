# UPerNet of mmseg on the bundled tiny-rn and drawn scenes, without any label: a hook gives it those of a MaskCLIP.
_base_ = './maskclip_plus_hook_shapes.py'

head = dict(
    dropout_ratio=0.1,
    num_classes={{_base_.num_classes}},
    norm_cfg=dict(type='BN', requires_grad=True),
    align_corners=False,
)
model = dict(
    type='EncoderDecoder',
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        channels=64,
        loss_decode=dict(type='CrossEntropyLoss'),
        **head,
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=384,
        in_index=2,
        channels=64,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
        **head,
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)
