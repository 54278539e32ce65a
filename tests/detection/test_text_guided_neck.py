"""TextGuidedNeck: what DenseCLIP joins, in detectors and segmentors of the wheels, and refusals."""

from __future__ import annotations

from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from tiny_towers import resnet

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

NAMES = ['sky', 'road', 'red car']
ARCH = resnet(embed_dim=16, text=dict(width=16, heads=1, layers=1))
TEXT = dict(type='vlm_dense.TextTower', arch=ARCH)
SIZE = 64


@MODELS.register_module('TextGuidedNeckTestInner')
class Inner(BaseModule):
    """A neck that returns what it gets."""

    def __init__(self, in_channels):
        super().__init__()
        self.in_channels = in_channels

    def forward(self, stages):
        return stages


def neck(**options):
    own = dict(
        neck=dict(type='vlm_dense.TextGuidedNeckTestInner'), in_channels=[8, 16], class_names=NAMES, text_encoder=TEXT
    )
    torch.manual_seed(0)
    return MODELS.build({**own, 'type': 'vlm_dense.TextGuidedNeck', **options})


def images(number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_what_is_joined_is_the_score_map_of_denseclip():
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='vlm_dense.DenseCLIP',
            backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True),
            text_encoder=TEXT,
            text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
            decode_head=dict(type='mmseg.FCNHead', in_channels=259, in_index=3, channels=4, num_classes=3),
            class_names=NAMES,
        )
    ).eval()
    with torch.no_grad():
        stages, score, _ = model.guide(images())
        dense = model.backbone.encode(images(), ('dense',)).dense
        ours = neck(in_channels=[8, 16], project=False, tau=1.0).eval()
        ours.load_state_dict(model.state_dict(), strict=False)
        kept, joined = ours((images()[:, :, :8], dense))
    assert torch.equal(kept, images()[:, :, :8]) and ours.neck.in_channels == [8, 19]
    torch.testing.assert_close(joined[:, 16:], score)
    torch.testing.assert_close(stages[3][:, -3:], joined[:, 16:])
    assert torch.equal(joined[:, :16], dense)


def test_the_projection_learns_and_the_tower_does_not():
    ours = neck(index=0)
    ours((torch.randn(2, 8, 4, 4), torch.randn(2, 16, 2, 2)))[0].square().mean().backward()
    moved = {name for name, p in ours.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {'projection.weight', 'projection.bias'}
    assert ours.neck.in_channels == [11, 16]


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (dict(index=2), 'one of the 2 stages'),
        (dict(tau=0), 'tau above 0'),
        (dict(class_names=None), 'class_names are missing'),
        (dict(text_encoder=None), 'needs text_encoder'),
        (dict(index=0, project=False), 'without project of 16 channels'),
        (dict(text_prompt=dict(type='vlm_dense.KgCoOpPrompt', num_contexts=4)), 'losses of its own'),
        (dict(text_prompt=dict(type='vlm_dense.CoCoOpPrompt', num_contexts=4)), 'reads or changes the image'),
    ],
)
def test_refusals(options, told):
    with pytest.raises(ConfigError, match=told):
        neck(**options)


def stock(library, path: str):
    """A small model of a config in a wheel, with a neck that is guided by text."""
    name = library.__name__
    init_default_scope(name)
    model = Config.fromfile(Path(library.__file__).parent / '.mim' / 'configs' / path).model
    model.pop('pretrained', None)
    model.data_preprocessor = None
    model.backbone.update(depth=18, base_channels=8, stem_channels=8, init_cfg=None, norm_cfg=dict(type='BN'))
    inner = model.neck
    inner.pop('in_channels')
    model.neck = dict(
        type='vlm_dense.TextGuidedNeck', neck=inner, in_channels=[8, 16, 32, 64], class_names=NAMES, text_encoder=TEXT
    )
    return (MMDET_MODELS if name == 'mmdet' else MMSEG_MODELS).build(model)


@pytest.mark.parametrize(
    ('library', 'path'),
    [
        (mmdet, 'retinanet/retinanet_r50_fpn_1x_coco.py'),
        (mmdet, 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
        (mmdet, 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
        (mmseg, 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'),
    ],
)
def test_in_a_stock_model(library, path):
    torch.manual_seed(0)
    model = stock(library, path).train()
    if library is mmseg:
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, SIZE, SIZE).long())) for _ in range(2)]
    else:
        sides = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        meta = dict(dict.fromkeys(sides, (SIZE, SIZE)), scale_factor=(1.0, 1.0))
        boxes = dict(bboxes=torch.tensor([[4.0, 4.0, 40.0, 50.0]]), labels=torch.tensor([1]))
        samples = [DetDataSample(gt_instances=InstanceData(**boxes), metainfo=meta) for _ in range(2)]
    model.parse_losses(model.loss(images(), samples))[0].backward()
    assert model.neck.projection.weight.grad.abs().max() > 0
    assert not any(p.requires_grad for p in model.neck.text_encoder.parameters())
    with torch.no_grad():
        model.eval()
        found = model.extract_feat(images(1))
    assert len(found) >= 4
