"""The published model's config: without data, without weights, and on a miniature of both."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from engine.toy import scalars
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
import train as train_tool  # noqa: E402

CONFIG = str(ROOT / 'configs' / 'denseclip_ade20k.py')
SMALL = [
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'train_dataloader.dataset.pipeline.3.scale=(128,64)',
    'train_dataloader.dataset.pipeline.4.crop_size=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(128,64)',
    'model.data_preprocessor.size=(64,64)',
    'model.test_cfg.crop_size=(64,64)',
    'model.test_cfg.stride=(42,42)',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.save_last=False',
]


@pytest.fixture
def data(tmp_path):
    """Three images and masks in ADE20K's layout: labels 1..150, 0 for none."""
    rng = np.random.RandomState(0)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / 'ade' / kind / split).mkdir(parents=True)
        for i in range(3):
            mask = rng.randint(0, 151, (4, 6)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
            image = rng.randint(0, 255, (80, 120, 3)).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / 'ade' / 'images' / split / f'ADE_{i}.jpg')
            Image.fromarray(mask).save(tmp_path / 'ade' / 'annotations' / split / f'ADE_{i}.png')
    return tmp_path / 'ade'


def weights_at(path) -> list[str]:
    return [f'model.backbone.pretrained={path}', f'model.text_encoder.pretrained={path}']


def message(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as left:
        train_tool.main([CONFIG, *argv])
    assert left.value.code != 0
    out = capsys.readouterr()
    assert 'Traceback' not in out.out + out.err
    return out.err


def test_without_data_the_folders_that_are_missing_are_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = message(capsys, '--work-dir', str(tmp_path / 'work'))
    assert 'images/training' in text and '--data-root DIR' in text


def test_without_weights_the_file_and_a_bundled_model_are_named(capsys, data, tmp_path):
    absent = str(tmp_path / 'RN50.pt')
    options = ['--cfg-options', *SMALL, *weights_at(absent), 'visualizer.name=absent']
    text = message(capsys, '--data-root', str(data), '--work-dir', str(tmp_path / 'work'), *options)
    assert absent in text and 'tiny-rn' in text


def test_it_trains_and_validates_on_openais_layout(data, tmp_path):
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(**open_clip.get_model_config('RN50'))
    weights = {k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items() if k != 'attn_mask'}
    weights.update(input_resolution=torch.tensor(224), context_length=torch.tensor(77), vocab_size=torch.tensor(49408))
    path = tmp_path / 'RN50.pt'
    torch.save(weights, path)
    del clip, weights
    work = tmp_path / 'work'
    options = ['--cfg-options', *SMALL, *weights_at(path), 'visualizer.name=present']
    train_tool.main([CONFIG, '--data-root', str(data), '--work-dir', str(work), *options])
    rows = scalars(work)
    assert [r['step'] for r in rows if 'loss' in r] == [1, 2]
    assert 'mIoU' in rows[-1]
