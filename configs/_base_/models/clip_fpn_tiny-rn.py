# Semantic FPN on the bundled tiny-rn: the baseline without text. BatchNorm statistics stay those of the pretraining,
# so small batches and several processes change nothing.
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(96, 96),
)
model = dict(
    type='vlm_dense.CLIPEncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.CLIPResNet', arch='tiny-rn', pretrained='bundled', norm_eval=True),
    neck=dict(type='FPN', in_channels=[96, 192, 384, 768], out_channels=64, num_outs=4, init_cfg=None),
    decode_head=dict(
        type='FPNHead',
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.1,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        init_cfg=None,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', keep_logits=False),
)
tta_model = dict(type='vlm_dense.StripTTAModel')
