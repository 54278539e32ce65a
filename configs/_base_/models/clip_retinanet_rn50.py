# mmdet's RetinaNet on CLIP's RN50: the baseline without text. BatchNorm is synchronised and trained, no stage is
# frozen.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    data_preprocessor=dict(
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
    ),
    backbone=dict(
        _delete_=True,
        type='vlm_dense.CLIPResNet',
        arch='RN50',
        pretrained='openai',
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
)
