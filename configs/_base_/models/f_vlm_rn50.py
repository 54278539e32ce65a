# F-VLM on CLIP's RN50. Images are normalised by ImageNet's mean and deviation, as in the release.
norm = dict(type='SyncBN', eps=1e-4, momentum=0.003)
strides = [4, 8, 16, 32, 64]
clip = dict(arch='RN50', pretrained='openai')

model = dict(
    type='vlm_dense.FVLM',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=64,
    ),
    backbone=dict(type='vlm_dense.CLIPResNet', attnpool=True, **clip),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet80', separators='_'),
    neck=dict(type='vlm_dense.FVLMNeck', out_channels=256, norm_cfg=norm),
    rpn_head=dict(
        type='vlm_dense.FVLMRPNHead',
        in_channels=256,
        feat_channels=256,
        norm_cfg=norm,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=strides, center_offset=0.5
        ),
        bbox_coder=dict(type='vlm_dense.InclusiveBoxCoder'),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0),
    ),
    roi_head=dict(
        type='vlm_dense.TextRoIHead',
        scorer=dict(type='vlm_dense.AttentionPoolScorer'),
        alpha=0.2,
        beta=0.45,
        background='detector',
        renormalise=True,
        clip_scale=100.0,
        bbox_roi_extractor=dict(
            type='vlm_dense.CornerRoIExtractor', output_size=7, out_channels=256, featmap_strides=strides
        ),
        bbox_head=dict(
            type='vlm_dense.TextBBoxHead',
            in_channels=256,
            num_shared_convs=4,
            num_shared_fcs=1,
            norm_cfg=norm,
            fc_norm_cfg=norm,
            conv_bias=True,
            embedding='linear',
            temperature=1.0,
            logit_scale=100.0,
            divide=True,
            bbox_coder=dict(type='vlm_dense.InclusiveBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='vlm_dense.RegionCrossEntropy', background_weight=0.9),
            loss_bbox=dict(type='vlm_dense.MeanSmoothL1Loss', beta=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='RandomSampler', num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=2000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
)
