# F-VLM, narrower, on the bundled tiny-rn. Objects of drawn scenes have sides of 12 to 50 px.
_base_ = './f_vlm_rn50.py'

norm = dict(type='BN')
clip = dict(arch='tiny-rn', pretrained='bundled')
model = dict(
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        pad_size_divisor=32,
    ),
    backbone=clip,
    text_encoder=clip,
    text_prompt=dict(
        _delete_=True, type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.', 'a drawing of a {}.']
    ),
    neck=dict(out_channels=64, norm_cfg=norm),
    rpn_head=dict(in_channels=64, feat_channels=64, norm_cfg=norm, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=16),
        bbox_head=dict(
            in_channels=64,
            num_shared_convs=1,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=norm,
            fc_norm_cfg=norm,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=30)),
)
