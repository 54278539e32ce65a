# MaskCLIP+ on the bundled tiny-rn: the teacher is MaskCLIP on it, the student a small head on its first three stages,
# which stay frozen. The head looks at few positions at a time, so it cannot learn how coarse the teacher's map is and
# keeps what all images have in common: the shapes.
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(96, 96),
)
clip = dict(arch='tiny-rn', pretrained='bundled')
model = dict(
    type='vlm_dense.MaskCLIPPlus',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.CLIPResNet', out_indices=(0, 1, 2), frozen_stages=4, **clip),
    teacher=dict(
        type='vlm_dense.MaskCLIP',
        backbone=dict(type='vlm_dense.MaskCLIPResNet', **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
    ),
    decode_head=dict(
        decode_module=dict(
            type='FCNHead',
            in_channels=[96, 192, 384],
            in_index=[0, 1, 2],
            input_transform='resize_concat',
            num_convs=1,
            kernel_size=3,
            concat_input=False,
            norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        ),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', keep_logits=False),
)
