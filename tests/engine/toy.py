"""A data set, a model and a config small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
default_scope = 'mmseg'
data_root = {data_root!r}
_base_ = {base!r}
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
               dist_cfg=dict(backend='nccl'))
metainfo = dict(classes=('sky', 'road', 'car'), palette=[[70, 130, 180], [128, 64, 128], [0, 0, 142]])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True,
                           pad_val=0, seg_pad_val=255, size=(32, 32), test_cfg=dict(size_divisor=32)),
    backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='SyncBN')),
    decode_head=dict(type='FCNHead', in_channels=32, in_index=3, channels=8, num_convs=1, concat_input=False,
                     num_classes=3, dropout_ratio=0.2, norm_cfg=dict(type='SyncBN'), align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
visualizer = dict(name={name!r})
train_pipeline = [dict(type='vlm_dense.LoadImage'), dict(type='LoadAnnotations'),
                  dict(type='vlm_dense.CheckSeg', num_classes=3),
                  dict(type='RandomResize', scale=(48, 40), ratio_range=(0.8, 1.5), keep_ratio=True),
                  dict(type='RandomCrop', crop_size=(32, 32)), dict(type='RandomFlip', prob=0.5),
                  dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]
test_pipeline = [dict(type='vlm_dense.LoadImage'), dict(type='Resize', scale=(96, 80), keep_ratio=True),
                 dict(type='LoadAnnotations'), dict(type='vlm_dense.CheckSeg', num_classes=3),
                 dict(type='PackSegInputs')]
tta_pipeline = [dict(type='vlm_dense.LoadImage'), dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.0, 1.5)],
    [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
tta_model = dict(type='SegTTAModel')
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
                        dataset=dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo,
                                     img_suffix='.png', pipeline=train_pipeline,
                                     data_prefix=dict(img_path='images/train', seg_map_path='masks/train')))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='BaseSegDataset', data_root=data_root, metainfo=metainfo,
                                   img_suffix='.png', pipeline=test_pipeline, test_mode=True,
                                   data_prefix=dict(img_path='images/val', seg_map_path='masks/val')))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=12)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=12, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=2))
"""
RUNTIME = Path(__file__).parents[2] / 'configs' / '_base_' / 'default_runtime.py'


def write_data(root: Path, train: int = 10, val: int = 4) -> Path:
    """Images of three bands of noise and their masks, below ``root``; returns ``root``."""
    rng = np.random.RandomState(0)
    for split, count in (('train', train), ('val', val)):
        for kind in ('images', 'masks'):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            mask = np.repeat(np.sort(rng.randint(0, 3, 40 + 4 * (i % 3)))[:, None], 48, 1).astype(np.uint8)
            image = (mask[..., None] * 80 + rng.randint(0, 60, (*mask.shape, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / 'images' / split / f'{i}.png')
            Image.fromarray(mask).save(root / 'masks' / split / f'{i}.png')
    return root


def write_config(folder: Path, data_root: Path, more: str = '', name: str = 'toy') -> str:
    """Path of a config that trains twelve iterations.

    Args:
        folder: Where to write it.
        data_root: What :func:`write_data` wrote.
        more: Python that changes the config.
        name: Of the file. mmengine's run-wide objects hang on it, so runs of one process need different ones.
    """
    path = folder / f'{name}.py'
    path.write_text(CONFIG.format(data_root=str(data_root), base=str(RUNTIME), name=name) + more)
    return str(path)


def scalars(work_dir: Path) -> list[dict]:
    """What the last run in ``work_dir`` logged, without times."""
    log = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in row.items() if 'time' not in k} for row in rows]
