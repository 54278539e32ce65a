# mmdet's RetinaNet, narrower, on the bundled tiny-rn: the baseline without text. See clip_mask-rcnn_tiny-rn.py.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
    ),
    backbone=dict(_delete_=True, type='vlm_dense.CLIPResNet', arch='tiny-rn', pretrained='bundled', norm_eval=True),
    neck=dict(in_channels=[96, 192, 384, 768], out_channels=64, num_outs=3),
    bbox_head=dict(
        num_classes=8,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
    ),
    test_cfg=dict(nms_pre=200, max_per_img=30),
)
