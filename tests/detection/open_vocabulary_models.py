"""Tiny open-vocabulary detectors with random weights, and batches for them."""

from __future__ import annotations

from pathlib import Path

import mmdet
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from tiny_towers import resnet, vit
from torch import nn

from vlm_dense.engine.configs.names import CONFIGS
from vlm_dense.registry import MODELS

NAMES = ['circle', 'square', 'red star']
ARCHS = dict(
    f_vlm=resnet(embed_dim=32, text=dict(layers=3), image_size=64),
    f_vit=vit(embed_dim=32, text=dict(layers=3), image_size=64, patch_size=16, width=48, layers=4),
)
SIZE = 64


def config(kind: str, **parts) -> dict:
    """Config of a tiny ``'f_vlm'`` or ``'f_vit'`` with random towers."""
    tower = dict(f_vlm='tiny-rn', f_vit='tiny-vit')[kind]
    cfg = Config.fromfile(CONFIGS / '_base_' / 'models' / f'{kind}_{tower}.py')
    clip = dict(arch=ARCHS[kind], pretrained=None)
    model = dict(
        neck=dict(out_channels=8),
        rpn_head=dict(in_channels=8, feat_channels=8),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=8),
            bbox_head=dict(in_channels=8, conv_out_channels=8, fc_out_channels=32),
        ),
        train_cfg=dict(rpn_proposal=dict(nms_pre=40, max_per_img=20), rcnn=dict(sampler=dict(num=16))),
        test_cfg=dict(rpn=dict(nms_pre=40, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=10)),
    )
    cfg.merge_from_dict(dict(model=model))
    model = cfg.model
    model.backbone.update(clip)
    model.text_encoder.update(clip)
    if kind == 'f_vit':
        strides = [4, 8, 16, 32]
        model.rpn_head.anchor_generator.strides = [*strides, 64]
        model.roi_head.bbox_roi_extractor.featmap_strides = strides
    return {**model, 'class_names': NAMES, **parts}


def retinanet(**parts) -> dict:
    """Config of a tiny RetinaNet with anchors classified by text, on the ResNet of ``'f_vlm'``."""
    clip = dict(arch=ARCHS['f_vlm'])
    model = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs/_base_/models/retinanet_r50_fpn.py').model
    for key in ('data_preprocessor', 'backbone', 'type'):
        model.pop(key)
    model.neck.update(in_channels=None, out_channels=8)
    model.bbox_head.update(type='vlm_dense.TextRetinaHead', in_channels=8, feat_channels=8, stacked_convs=1)
    model.bbox_head.scorer = dict(type='vlm_dense.DenseMapScorer')
    model.bbox_head.pop('num_classes')
    model.neck.pop('in_channels')
    model.test_cfg.update(nms_pre=40, score_thr=0.0, max_per_img=10)
    return dict(
        model,
        type='vlm_dense.OpenVocabularySingleStage',
        backbone=dict(type='vlm_dense.CLIPResNet', attnpool=True, **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
        **dict(dict(class_names=NAMES), **parts),
    )


def build(kind: str, seed: int = 0, **parts) -> nn.Module:
    """The model, in eval mode."""
    torch.manual_seed(seed)
    model = MODELS.build(retinanet(**parts) if kind == 'retinanet' else config(kind, **parts))
    model.init_weights()
    return model.eval()


def batch(number: int = 2, labels=(0, 1), seed: int = 0, size: int = SIZE) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Normalised images (B, 3, size, size), and samples with two boxes each."""
    rng = torch.Generator().manual_seed(seed)
    meta = dict(img_shape=(size, size), pad_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
    boxes = torch.tensor([[4.0, 6.0, 28.0, 30.0], [30.0, 20.0, 60.0, 58.0]])
    samples = []
    for _ in range(number):
        sample = DetDataSample(metainfo=dict(meta, batch_input_shape=(size, size)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels))
        samples.append(sample)
    return torch.randn(number, 3, size, size, generator=rng), samples
