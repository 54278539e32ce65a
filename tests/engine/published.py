"""What runs of the published configs share: weights in OpenAI's layout, data in ADE20K's, the training program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from engine.toy import scalars
from PIL import Image

from vlm_dense.cli import train as train_tool

ROOT = Path(__file__).parents[2]

NO_WORKERS = [
    f'{loader}_dataloader.{option}'
    for loader in ('train', 'val')
    for option in ('num_workers=0', 'persistent_workers=False')
]
SMALL_ADE20K = [
    *NO_WORKERS,
    'train_dataloader.batch_size=2',
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


def write_ade20k(root: Path) -> Path:
    """Three images and masks a split in ADE20K's layout, labels 1..150, 0 for none; returns ``root``."""
    rng = np.random.RandomState(0)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(3):
            mask = rng.randint(0, 151, (4, 6)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
            image = rng.randint(0, 255, (80, 120, 3)).astype(np.uint8)
            Image.fromarray(image).save(root / 'images' / split / f'ADE_{i}.jpg')
            Image.fromarray(mask).save(root / 'annotations' / split / f'ADE_{i}.png')
    return root


def write_rn50(path: Path) -> Path:
    """Random weights of RN50 in the layout of OpenAI's file; returns ``path``."""
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(**open_clip.get_model_config('RN50'))
    weights = {k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items() if k != 'attn_mask'}
    weights.update(input_resolution=torch.tensor(224), context_length=torch.tensor(77), vocab_size=torch.tensor(49408))
    torch.save(weights, path)
    return path


def weights_at(path: str | Path) -> list[str]:
    """Options that take both towers from ``path``."""
    return [f'model.backbone.pretrained={path}', f'model.text_encoder.pretrained={path}']


def trained(config: str, data: Path, work: Path, *options: str) -> list[dict]:
    """What ``tools/train.py`` logs in a run."""
    train_tool.main([config, '--data-root', str(data), '--work-dir', str(work), '--cfg-options', *options])
    return scalars(work)


def message(capsys, *argv: str) -> str:
    """What ``tools/train.py`` says as it refuses to start."""
    with pytest.raises(SystemExit) as left:
        train_tool.main(list(argv))
    assert left.value.code == 2
    out = capsys.readouterr()
    assert 'Traceback' not in out.out + out.err
    return out.err
