"""Small DenseCLIP detectors of every kind, and batches for them."""

from __future__ import annotations

from pathlib import Path

import mmdet
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from tiny_towers import resnet

NAMES = ['circle', 'square', 'red star']
ARCH = resnet(embed_dim=32)
TEXT = dict(
    class_names=NAMES,
    backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True, attnpool_positions='crop'),
    text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH, context_length=16),
    text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=4),
    context_decoder=dict(type='vlm_dense.ContextDecoder', width=16, heads=2, layers=1),
)
CHANNELS = [32, 64, 128, 256 + len(NAMES)]
BASES = Path(mmdet.__file__).parent / '.mim' / 'configs' / '_base_' / 'models'
KINDS = ('retinanet', 'faster-rcnn', 'mask-rcnn', 'cascade-rcnn')
_SMALL = dict(fc_out_channels=16, conv_out_channels=16, feat_channels=16, in_channels=16, out_channels=16, num_convs=1)


def _shrink(node) -> None:
    if isinstance(node, dict):
        for k, v in node.items():
            if k in _SMALL and isinstance(v, int):
                node[k] = _SMALL[k]
            elif k == 'num_classes':
                node[k] = len(NAMES)
            elif k in ('nms_pre', 'max_per_img', 'num') and isinstance(v, int):
                node[k] = min(v, 32)
            else:
                _shrink(v)
    elif isinstance(node, list):
        for v in node:
            _shrink(v)


def config(kind: str, **changes) -> ConfigDict:
    """DenseCLIP on mmdet's model of a kind, in few channels."""
    cfg = Config.fromfile(BASES / f'{kind}_r50_fpn.py').model
    _shrink(cfg)
    cfg.type = f'vlm_dense.DenseCLIP{"SingleStage" if "bbox_head" in cfg else "TwoStage"}'
    cfg.pop('backbone')
    cfg.neck.in_channels = CHANNELS
    for key, value in {**TEXT, **changes}.items():  # update() would merge them
        cfg[key] = value
    return cfg


def build(kind: str, **changes) -> torch.nn.Module:
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(config(kind, **changes))


def samples(boxes: list, size: tuple[int, int], labels: list | None = None) -> list[DetDataSample]:
    """A sample for each list of boxes; masks are the boxes."""
    made = []
    for i, of_image in enumerate(boxes):
        bboxes = torch.tensor(of_image, dtype=torch.float32).reshape(-1, 4)
        masks = torch.zeros(len(bboxes), *size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, bboxes.clamp(min=0).long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        ids = labels[i] if labels else [n % len(NAMES) for n in range(len(bboxes))]
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
        made.append(
            DetDataSample(
                metainfo=dict(meta, img_id=i),
                gt_instances=InstanceData(
                    bboxes=bboxes,
                    labels=torch.tensor(ids, dtype=torch.int64),
                    masks=BitmapMasks(masks.numpy(), *size),
                ),
                ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)),
            )
        )
    return made
