"""Components in configs of mmseg's and mmdet's wheels, trained and tested by the train programs of these wheels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest

MIM = dict(mmseg=Path(mmseg.__file__).parent / '.mim', mmdet=Path(mmdet.__file__).parent / '.mim')
RUN = """
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='vlm_dense.ShapesDataset', size=64, label='shape', num_scenes=4, split='train', pipeline=TRAIN),
)
val_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='vlm_dense.ShapesDataset', size=64, label='shape', num_scenes=2, split='val', test_mode=True, pipeline=TEST
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)
param_scheduler = []
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2), logger=dict(interval=1))
custom_imports = dict(imports=['vlm_dense'])
tower = dict(
    _delete_=True, type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', pyramid=True, frozen=True,
)
"""

SEGMENTATION = """
_base_ = {base!r}
TRAIN = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.SuppressLabels'), dict(type='PackSegInputs')]
TEST = [dict(type='vlm_dense.DrawScene'), dict(type='PackSegInputs')]
RUN
clip = dict(arch='tiny-vit', pretrained='bundled')
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(tower, image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=2, depth=4)),
    {neck}
    decode_head={head},
    auxiliary_head=dict(
        {delete}type='vlm_dense.PixelTextHead', in_channels={channels}, in_index=2, class_names='voc20',
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
    ),
)
custom_hooks = [
    dict(type='vlm_dense.ClassNamesHook'),
    dict(type='vlm_dense.PseudoLabelHook', teacher=dict(
        type='vlm_dense.MaskCLIP', backbone=dict(type='vlm_dense.MaskCLIPViT', **clip),
        text_encoder=dict(type='vlm_dense.TextTower', **clip),
    )),
    dict(type='vlm_dense.CheckpointFitHook'),
    dict(type='vlm_dense.FrozenWeightsHook'),
]
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
"""

DETECTION = """
_base_ = {base!r}
TRAIN = [dict(type='vlm_dense.DrawScene', detection=True), dict(type='PackDetInputs')]
TEST = [
    dict(type='vlm_dense.DrawScene', detection=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
]
RUN
model = dict(
    backbone=dict(tower, image_prompt=dict(type='vlm_dense.LoRA', rank=2)),
    neck=dict(in_channels=[128] * 4),
    {heads}
)
val_evaluator = dict(_delete_=True, type='vlm_dense.CocoMetric', metric=['bbox'])
test_evaluator = val_evaluator
"""


def train(library: str, text: str, folder: Path) -> str:
    """What the library's own train program says of two iterations, a checkpoint and a test."""
    config = folder / 'config.py'
    config.write_text(text.replace('\nRUN\n', RUN))
    program = MIM[library] / 'tools' / 'train.py'
    done = subprocess.run(
        [sys.executable, str(program), str(config), '--work-dir', str(folder / 'work')],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / 'work' / 'iter_2.pth').is_file()
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ('path', 'neck', 'head', 'channels'),
    [
        (
            'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
            'neck=dict(in_channels=[128] * 4),',
            "dict(num_classes=8, norm_cfg=dict(type='BN'))",
            256,
        ),
        (
            'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
            '',
            "dict(in_channels=[128] * 4, channels=32, num_classes=8, norm_cfg=dict(type='BN'))",
            128,
        ),
    ],
)
def test_mmseg_trains_a_frozen_tower_with_vpt_a_text_head_and_labels_by_the_hook(path, neck, head, channels, tmp_path):
    base = str(MIM['mmseg'] / 'configs' / path)
    delete = '' if neck else '_delete_=True, '  # it has an auxiliary head
    options = dict(base=base, neck=neck, head=head, channels=channels, delete=delete)
    told = train('mmseg', SEGMENTATION.format(**options), tmp_path)
    assert 'aux.loss_ce' in told and 'mIoU' in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ('path', 'heads'),
    [
        ('retinanet/retinanet_r50_fpn_1x_coco.py', 'bbox_head=dict(num_classes=8),'),
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'roi_head=dict(bbox_head=dict(num_classes=8)),'),
    ],
)
def test_mmdet_trains_a_frozen_tower_with_low_rank_updates(path, heads, tmp_path):
    base = str(MIM['mmdet'] / 'configs' / path)
    told = train('mmdet', DETECTION.format(base=base, heads=heads), tmp_path)
    assert 'loss_bbox' in told and 'bbox_mAP' in told
