# MaskCLIP+: DeepLabV2 on ResNet-101 learns from MaskCLIP on CLIP's RN50. Both get images normalised by ImageNet's mean
# and deviation, as published. The teacher's labels are not refined (vlm_dense.PromptDenoising and
# KeySmoothing in teacher.decode_head.refinements).
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(512, 512),
)
model = dict(
    type='vlm_dense.MaskCLIPPlus',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='ResNetV1c',
        depth=101,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet101_v1c'),
    ),
    teacher=dict(
        type='vlm_dense.MaskCLIP',
        backbone=dict(type='vlm_dense.MaskCLIPResNet', arch='RN50', pretrained='openai'),
        text_encoder=dict(type='vlm_dense.TextTower', arch='RN50', pretrained='openai'),
        decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    ),
    decode_head=dict(
        decode_module=dict(
            type='vlm_dense.ASPPHeadV2',
            in_channels=2048,
            in_index=3,
            dilations=(6, 12, 18, 24),
            norm_cfg=norm_cfg,
        ),
        norm_feat=False,
        cls_bg=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', keep_logits=False),
)
