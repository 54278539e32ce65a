# RetinaNet with anchors classified by text on the bundled tiny-rn, boxes a second time by CLIP's attention pool.
_base_ = './clip_retinanet_tiny-rn.py'

clip = dict(arch='tiny-rn', pretrained='bundled')
model = dict(
    type='vlm_dense.OpenVocabularySingleStage',
    backbone=dict(attnpool=True),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.', 'a drawing of a {}.']),
    bbox_head=dict(
        _delete_=True,
        type='vlm_dense.TextRetinaHead',
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        scorer=dict(type='vlm_dense.AttentionPoolScorer'),
        alpha=0.2,
        beta=0.45,
        clip_scale=100.0,
    ),
)
