"""mmdet's own configs, unchanged but for the data, train and test on drawn scenes with the stand-in for the kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vlm_dense.ops  # noqa: F401  before mmdet

# isort: split
import mmdet
from mmdet.datasets import CocoDataset
from mmengine import Config
from mmengine.runner import Runner

from vlm_dense.datasets import ShapesDataset

MIM = Path(mmdet.__file__).parent / '.mim'
CONFIGS = {
    'retinanet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'mask-rcnn': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'fcos': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'rtmdet-tiny': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'deformable-detr': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
}
PIXELS = ('scale', 'scales', 'img_scale', 'size', 'crop_size')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Two scenes to train on and two to test on, in COCO's format and by COCO's 80 names."""
    folder = tmp_path_factory.mktemp('shapes')
    names = [dict(id=i, name=name) for i, name in enumerate(CocoDataset.METAINFO['classes'], start=1)]
    for split in ('train', 'val'):
        ShapesDataset(2, size=(64, 96), num_objects=(2, 3), split=split, label='shape').write_coco(folder / split)
        path = folder / split / 'annotations.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), 'categories': names}))
    return folder


def tenth(value, key=None):
    """A pipeline with its sizes in pixels divided by ten."""
    if isinstance(value, dict):
        return {k: tenth(v, k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(tenth(v, key) for v in value)
    return value // 10 if key in PIXELS else value


def on_scenes(name, scenes, work_dir):
    """The stock config ``name`` on the drawn scenes, for one epoch: two iterations, and a test of two images."""
    config = Config.fromfile(MIM / 'configs' / CONFIGS[name])
    for split, loaders in (('train', ['train_dataloader']), ('val', ['val_dataloader', 'test_dataloader'])):
        for loader in loaders:
            loader = config[loader]
            loader.update(batch_size=1, num_workers=0, persistent_workers=False)
            loader.dataset.update(
                data_root=str(scenes / split),
                ann_file='annotations.json',
                data_prefix=dict(img='images/'),
                pipeline=tenth(loader.dataset.pipeline),
            )
    config.val_evaluator.ann_file = config.test_evaluator.ann_file = str(scenes / 'val' / 'annotations.json')
    config.train_cfg.max_epochs = 1
    config.model.backbone.init_cfg = None  # nothing to download
    kept = config.model.test_cfg.get('rcnn', config.model.test_cfg)
    if 'score_thr' in kept:
        kept.score_thr = 0.0  # untrained scores are low; there shall be something to suppress
    config.default_hooks.logger.interval = 1
    config.default_hooks.checkpoint = None
    config.work_dir = str(work_dir)
    config.visualizer.name = f'stock-{name}'
    config.experiment_name = f'stock-{name}'
    return config


def check(work_dir, config):
    """Two finite losses, and figures of the two images for every kind of annotation."""
    lines = [json.loads(line) for line in next(Path(work_dir).glob('*/vis_data/scalars.json')).read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 2 and all(0 < loss < 1e4 for loss in losses)
    (figures,) = [line for line in lines if 'coco/bbox_mAP' in line]
    metrics = config.val_evaluator.metric
    for kind in [metrics] if isinstance(metrics, str) else metrics:
        assert 0 <= figures[f'coco/{kind}_mAP'] <= 1


@pytest.mark.parametrize('name', [name for name in CONFIGS if name != 'retinanet'])
def test_stock_config_trains_two_iterations_and_tests_two_images(name, scenes, tmp_path):
    config = on_scenes(name, scenes, tmp_path)
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 2
    check(tmp_path, config)


def test_mmdet_own_program_with_one_line_in_the_config(scenes, tmp_path):
    """``custom_imports`` is all that a user of mmdet alone adds; its data loaders start new processes."""
    config = on_scenes('retinanet', scenes, tmp_path)
    config.custom_imports = dict(imports=['vlm_dense.ops'])
    config.env_cfg.mp_cfg.mp_start_method = 'spawn'
    config.train_dataloader.num_workers = 1
    config.dump(tmp_path / 'config.py')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', MIM / 'tools' / 'train.py', tmp_path / 'config.py'],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check(tmp_path, config)
