# mmdet's RetinaNet on CLIP's ResNet, clip_retinanet_shapes.py, as a pure Python config.
from mmengine.config import read_base

with read_base():
    from ._base_.runtime import *

from mmdet.datasets.transforms import PackDetInputs, Resize
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.detectors import RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.necks import FPN
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import PseudoSampler
from mmengine.dataset import DefaultSampler, InfiniteSampler

from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.datasets.shapes import DrawScene, ShapesDataset
from vlm_dense.detection.coco import CocoMetric

default_scope = 'mmdet'
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        **colours,
        pad_size_divisor=32,
    ),
    backbone=dict(type=CLIPResNet, arch='tiny-rn', pretrained='bundled', norm_eval=True),
    neck=dict(type=FPN, in_channels=[96, 192, 384, 768], out_channels=64, num_outs=3, start_level=1),
    bbox_head=dict(
        type=RetinaHead,
        num_classes=8,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(
            type=AnchorGenerator,
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=200, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=30
    ),
)
scene = dict(type=ShapesDataset, size=96, num_objects=(2, 5), label='shape')
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        split='train',
        num_scenes=20000,
        pipeline=[dict(type=DrawScene, detection=True), dict(type=PackDetInputs)],
        **scene,
    ),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        split='val',
        num_scenes=200,
        test_mode=True,
        pipeline=[
            dict(type=DrawScene, detection=True),
            dict(type=Resize, scale=(96, 96), keep_ratio=True),
            dict(
                type=PackDetInputs,
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
            ),
        ],
        **scene,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, metric=['bbox'])
test_evaluator = val_evaluator
