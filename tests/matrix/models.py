"""A small model of every task around the tiny tower, and a batch for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mmdet
import torch
from mmdet.structures import DetDataSample
from mmengine import Config, ConfigDict
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from segmentation.small_heads import fpn_head
from tiny_towers import resnet, vit

from vlm_dense.classification import ClsDataSample
from vlm_dense.registry import MODELS

NAMES = ['background', 'circle', 'red star']
SIZE = 64
ARCHS = dict(
    vit=vit(embed_dim=32, text=dict(layers=3), image_size=SIZE, patch_size=16, width=48, layers=4),
    resnet=resnet(embed_dim=32, text=dict(layers=3), image_size=SIZE),
)
BACKBONES = dict(
    vit=dict(type='vlm_dense.CLIPViT', head=True, pyramid=True),
    resnet=dict(type='vlm_dense.CLIPResNet', attnpool=True),
)
SCORES = dict(resnet=3)
"""Stage with the stride of the score map, 2 for a ViT with a pyramid."""
TASKS = ('classifier', 'denseclip', 'maskclip', 'detector')


def _common(tower: str, parts: dict) -> dict:
    arch = ARCHS[tower]
    return dict(
        class_names=NAMES,
        text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
        backbone=dict(BACKBONES[tower], arch=arch, frozen_stages=4 if tower == 'vit' else -1),
        **parts,
    )


def classifier(tower: str, parts: dict) -> dict:
    """Config of a classifier."""
    return dict(_common(tower, parts), type='vlm_dense.CLIPClassifier')


def denseclip(tower: str, parts: dict) -> dict:
    """Config of a DenseCLIP segmentor."""
    return dict(
        _common(tower, parts),
        type='vlm_dense.DenseCLIP',
        neck=dict(type='mmseg.FPN', in_channels=None, out_channels=8, num_outs=4),
        decode_head=fpn_head(len(NAMES), 8),
        context_decoder=dict(type='vlm_dense.ContextDecoder', width=16, heads=2, layers=1, dropout=0.0),
        score_concat_index=SCORES.get(tower, 2),
        test_cfg=dict(mode='whole'),
    )


def maskclip(tower: str, parts: dict) -> dict:
    """Config of a MaskCLIP segmentor that trains its prompts."""
    model = _common(tower, parts)
    model['backbone'] = dict(
        type=dict(vit='vlm_dense.MaskCLIPViT', resnet='vlm_dense.MaskCLIPResNet').get(tower, 'vlm_dense.CLIPTower'),
        arch=ARCHS[tower],
    )
    model['backbone'].update(model.pop('dense', {}))
    head = dict(loss_decode=dict(type='mmseg.CrossEntropyLoss'))
    return dict(model, type='vlm_dense.MaskCLIP', decode_head=head, test_cfg=dict(mode='whole'), train_cfg={})


def detector(tower: str, parts: dict) -> dict:
    """Config of a DenseCLIP RetinaNet."""
    base = Path(mmdet.__file__).parent / '.mim' / 'configs' / '_base_' / 'models' / 'retinanet_r50_fpn.py'
    cfg = Config.fromfile(base).model
    cfg.pop('backbone')
    cfg.pop('data_preprocessor')
    cfg.neck.update(in_channels=None, out_channels=16)
    cfg.bbox_head.update(num_classes=None, in_channels=16, feat_channels=16, stacked_convs=1)
    cfg.test_cfg.update(nms_pre=16, max_per_img=8)
    common = _common(tower, parts)
    return dict(cfg, type='vlm_dense.DenseCLIPSingleStage', score_concat_index=SCORES.get(tower, 2), **common)


CONFIGS: dict[str, Callable] = dict(classifier=classifier, denseclip=denseclip, maskclip=maskclip, detector=detector)


def build(task: str, tower: str, parts: dict) -> torch.nn.Module:
    """The model of a task with parts of the contract."""
    torch.manual_seed(0)
    cfg = CONFIGS[task](tower, parts)
    return MODELS.build(ConfigDict(cfg))


def samples(task: str, number: int) -> list:
    """``number`` equal samples with labels."""
    meta = dict(
        img_shape=(SIZE, SIZE),
        ori_shape=(SIZE, SIZE),
        batch_input_shape=(SIZE, SIZE),
        pad_shape=(SIZE, SIZE),
        scale_factor=(1.0, 1.0),
    )
    made = []
    for _ in range(number):
        if task == 'classifier':
            sample = ClsDataSample(metainfo=dict(meta, img_path=f'image {len(made)}.png'))
            sample.gt_label = torch.tensor(1)
        elif task == 'detector':
            boxes = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 50.0, 40.0]]), labels=torch.tensor([1]))
            sample = DetDataSample(metainfo=meta, gt_instances=boxes)
        else:
            labels = torch.arange(SIZE)[None].expand(SIZE, -1) * len(NAMES) // SIZE
            sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels[None]))
        made.append(sample)
    return made


@torch.no_grad()
def output(task: str, model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the model for a batch: tensors with the images on the first axis."""
    if task == 'classifier':
        return [model(images)]
    if task == 'detector':
        return [x for level in model._forward(images) for x in level]
    return [model._forward(images)]
