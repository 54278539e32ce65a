# Baseline of f_vlm_shapes.py: Faster R-CNN of mmdet, fixed classes instead of text, same tower, data, iterations
#   python tools/train.py configs/f_vlm/f_vlm_fixed-classes_shapes.py
# It has a weight for each of the 8 classes. Those of crescents and hearts learn nothing: no training scene has any.
_base_ = './f_vlm_shapes.py'

train_dataloader = dict(dataset=dict(classes='all', held_out=_base_.novel_classes))
custom_hooks = _base_.custom_hooks[:-1]  # names stay
model = dict(
    _delete_=True,
    type='FasterRCNN',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, attnpool=False, frozen=True),
    neck=dict(_base_.model.neck, in_channels=[96, 192, 384, 768]),
    rpn_head=_base_.model.rpn_head,
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=_base_.model.roi_head.bbox_roi_extractor,
        bbox_head=dict(
            type='ConvFCBBoxHead',
            in_channels=64,
            num_shared_convs=1,
            num_shared_fcs=1,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=dict(type='BN'),
            num_classes=8,
            reg_class_agnostic=True,
            bbox_coder=_base_.model.roi_head.bbox_head.bbox_coder,
            loss_bbox=_base_.model.roi_head.bbox_head.loss_bbox,
        ),
    ),
    train_cfg=_base_.model.train_cfg,
    test_cfg=_base_.model.test_cfg,
)
