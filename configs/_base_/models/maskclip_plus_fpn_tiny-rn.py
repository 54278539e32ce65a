# MaskCLIP+ on the bundled tiny-rn with Semantic FPN, all of it trained, as student.
_base_ = './clip_fpn_tiny-rn.py'

clip = dict(arch='tiny-rn', pretrained='bundled')
model = dict(
    type='vlm_dense.MaskCLIPPlus',
    teacher=dict(
        type='vlm_dense.MaskCLIP',
        backbone=dict(type='vlm_dense.MaskCLIPResNet', **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
    ),
    decode_head=dict(
        _delete_=True,
        decode_module=dict(
            type='FPNHead',
            in_channels=[64, 64, 64, 64],
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        ),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
