# Semantic FPN on CLIP's RN50: the baseline without text. Neck and head keep their constructors' initial values, as the
# official training script leaves them.
norm_cfg = dict(type='SyncBN', requires_grad=True)
clip_mean = [122.7709383, 116.7460125, 104.09373615]
clip_std = [68.5005327, 66.6321579, 70.32316305]
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=clip_mean,
    std=clip_std,
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(512, 512),
)
model = dict(
    type='vlm_dense.CLIPEncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='vlm_dense.CLIPResNet',
        arch='RN50',
        pretrained='openai',
        norm_cfg=norm_cfg,
    ),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4, init_cfg=None),
    decode_head=dict(
        type='FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        init_cfg=None,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341), window_batch_size=8, keep_logits=False),
)
# multi-scale and flip: tools/test.py --tta
tta_model = dict(type='vlm_dense.StripTTAModel')
