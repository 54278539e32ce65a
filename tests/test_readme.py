"""What the README promises."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from vlm_dense.engine.configs.names import list_configs

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def components(folder: Path) -> Path:
    """The config of the components, behind ``own_fpn.py`` of the folder."""
    snippet = next(b for b in re.findall(r'```python\n(.*?)```', README, re.S) if './own_fpn.py' in b)
    for old, new in (
        ('ViT-B-16-quickgelu', 'tiny-vit'),
        ("pretrained='openai'", 'pretrained=None'),
        ('depth=12', 'depth=4'),
        ('maskclip_vit-b16_ade20k', 'maskclip_tiny-vit_shapes'),
    ):
        assert old in snippet
        snippet = snippet.replace(old, new)
    path = folder / 'components.py'
    path.write_text(snippet)
    return path


@pytest.mark.parametrize('more', [False, True], ids=['tower', 'components'])
def test_snippets_train_an_iteration_in_plain_mmseg(more, tmp_path):
    snippet = next(b for b in re.findall(r'```python\n(.*?)```', README, re.S) if 'CLIPViT' in b)
    base = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'sem_fpn'
    for old, new in (
        ("'./fpn", f"'{base}/fpn"),
        ("arch='ViT-B-16-quickgelu'", "arch='tiny-vit'"),
        ("pretrained='openai'", 'pretrained=None'),
    ):
        assert old in snippet
        snippet = snippet.replace(old, new)
    snippet = re.sub(r'\[768\] \* 4', '[128] * 4', snippet)
    path = tmp_path / 'own_fpn.py'
    path.write_text(snippet)
    path = components(tmp_path) if more else path
    for kind in ('images', 'annotations'):
        folder = tmp_path / 'ade' / kind / 'training'
        folder.mkdir(parents=True)
        for i in range(4):
            shape = (64, 64, 3) if kind == 'images' else (64, 64)
            suffix = 'jpg' if kind == 'images' else 'png'
            cv2.imwrite(str(folder / f'{i}.{suffix}'), np.full(shape, 20 * i, np.uint8))
    cfg = Config.fromfile(path)
    assert ('custom_imports' in cfg) == more
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(tmp_path / 'ade'),
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_cfg.max_iters': 1,
            'train_cfg.val_interval': 10,
            'work_dir': str(tmp_path / 'work'),
            'model.data_preprocessor.size': (64, 64),
        }
    )
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg.pop(key)
    if more:
        cfg.train_dataloader.dataset.pipeline.pop(1)  # LoadAnnotations
    pipeline = cfg.train_dataloader.dataset.pipeline
    for step in pipeline:
        if step['type'] == 'RandomResize':
            step['scale'] = (64, 64)
        if step['type'] == 'RandomCrop':
            step['crop_size'] = (64, 64)
            step['cat_max_ratio'] = 1.0  # without labels, which it would read
    cfg.visualizer.name = cfg.experiment_name = path.stem
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1
    trained = {name for name, parameter in runner.model.backbone.named_parameters() if parameter.requires_grad}
    assert more == all(name.startswith(('image_prompt', 'fpn')) for name in trained)


@pytest.mark.parametrize('path', list_configs(ROOT / 'configs'), ids=lambda p: p.stem)
def test_every_config_reads(path):
    cfg = Config.fromfile(path)
    assert cfg.model and (cfg.get('train_dataloader') or cfg.test_dataloader)


def test_every_command_names_files_that_exist():
    for command in re.findall(r'(?:python|bash) ((?:tools|configs)\S*\.(?:py|sh))', README):
        assert (ROOT / command).is_file(), command
    for path in re.findall(r'`?(configs/[\w./-]+\.py)', README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r'\]\(((?:docs|configs|tools)[^)#]+)\)', README):
        assert (ROOT / path).exists(), path
