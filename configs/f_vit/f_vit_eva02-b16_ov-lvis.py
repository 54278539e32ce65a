# F-ViT, EVA-02-CLIP ViT-B/16, OV-LVIS: 866 base and 337 novel classes. Published: mask APr 11.5; with CLIPSelf's
# weights 25.3.
_base_ = [
    '../_base_/models/f_vit_eva02-b16.py',
    '../_base_/datasets/ov-lvis_lsj-1024.py',
    '../_base_/schedules/f_vit_3e.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),
    rpn_head=dict(type='vlm_dense.NormedRPNHead', norm_cfg=_base_.norm),
    roi_head=dict(
        beta=0.6,
        clip_scale=50.0,
        bbox_head=dict(loss_cls=dict(background_weight=0.9)),
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            norm_cfg=_base_.norm,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(assigner=dict(match_low_quality=True), mask_size=28)),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, nms=dict(iou_threshold=0.5), max_per_img=300, mask_thr_binary=0.5)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', milestones=[32, 44], gamma=0.1, by_epoch=True),
]
train_cfg = dict(max_epochs=48, val_interval=4)
