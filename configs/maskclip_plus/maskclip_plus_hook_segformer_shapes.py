# SegFormer's decoder of mmseg on the bundled tiny-rn and drawn scenes, without any label: a hook gives it those of a
# MaskCLIP.
_base_ = './maskclip_plus_hook_shapes.py'

model = dict(
    type='EncoderDecoder',
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        channels=128,
        dropout_ratio=0.1,
        num_classes={{_base_.num_classes}},
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)
