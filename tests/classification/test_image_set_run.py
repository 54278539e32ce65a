"""CoOp on a set with a split file, from the base configs to both halves of the classes, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from vlm_dense.classification.datasets import SETS
from vlm_dense.cli import test as test_tool
from vlm_dense.cli import train as train_tool
from vlm_dense.vocabulary.templates import read_templates

ROOT = Path(__file__).parents[2]
BASES = ROOT / 'configs/_base_'

NAMES = ['Tiger_Shark', "St. Bernard's", 'café', '日本', 'F/A-18 (left), 2012']
FEW_SHOT = sorted(p.name.removesuffix('_few-shot.py') for p in (BASES / 'datasets').glob('*_few-shot.py'))
PARTS = ('train', 'val', 'test')
SMALL = [f'{part}_dataloader.{key}' for part in PARTS for key in ('num_workers=0', 'persistent_workers=False')]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root, parts = tmp_path_factory.mktemp('data'), {}
    for part in PARTS:
        parts[part] = [[f'{label}/{part}{i}.jpg', label, name] for label, name in enumerate(NAMES) for i in range(2)]
        for path, *_ in parts[part]:
            file = root / 'dtd/images' / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.RandomState(len(path)).randint(0, 255, (30, 40, 3)).astype(np.uint8)).save(file)
    (root / 'dtd/split_zhou_DescribableTextures.json').write_text(json.dumps(parts))
    return root


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'coop_dtd.py'
    bases = ['models/clip_classifier_tiny-rn', 'datasets/dtd_few-shot', 'schedules/coop_50e', 'classification_runtime']
    path.write_text(
        f'_base_ = {[f"{BASES}/{base}.py" for base in bases]!r}\n'
        'model = dict(text_prompt=dict(type="vlm_dense.CoOpPrompt", num_contexts=2))\n'
        'train_cfg = dict(max_epochs=1)\n'
    )
    return path


def test_training_on_base_and_tests_on_both_halves(config, data, tmp_path):
    changes = [f'{part}_dataloader.dataset.{key}' for part in ('train', 'val') for key in ('shots=1', 'classes=base')]
    train_tool.main(
        [str(config), '--work-dir', str(tmp_path), '--data-root', str(data), '--cfg-options']
        + [*SMALL, *changes, 'test_dataloader.dataset.classes=base']
    )
    checkpoint = tmp_path / 'epoch_1.pth'
    assert set(torch.load(checkpoint, weights_only=False)['state_dict']) == {'text_prompt.ctx'}
    for half in ('base', 'new', 'all'):
        metrics = test_tool.main(
            [str(config), str(checkpoint), '--work-dir', str(tmp_path / half), '--data-root', str(data)]
            + ['--cfg-options', *SMALL, f'test_dataloader.dataset.classes={half}']
        )
        assert 0 <= metrics['top1'] <= 100


def test_missing_data_are_told_before_anything_is_built(config, capsys, tmp_path):
    with pytest.raises(SystemExit):
        train_tool.main([str(config), '--work-dir', str(tmp_path), '--data-root', str(tmp_path / 'none')])
    message = capsys.readouterr().err
    assert message.startswith('DataError: The data of ImageSetDataset are not there')
    assert 'dtd/split_zhou_DescribableTextures.json' in message and '--data-root DIR' in message


def test_the_eleven_sets_and_shapes_have_a_base_config():
    tested = {name for name, entry in SETS.items() if entry['layout'] in ('split', 'aircraft')} | {'imagenet'}
    assert set(FEW_SHOT) == tested | {'shapes'} and len(tested) == 11


@pytest.mark.parametrize('name', [name for name in FEW_SHOT if name != 'shapes'])
def test_base_configs_name_their_set_and_its_template(name):
    cfg = Config.fromfile(BASES / f'datasets/{name}_few-shot.py')
    for part in PARTS:
        dataset = cfg[f'{part}_dataloader'].dataset
        assert (dataset.name, dataset.split, dataset.data_root) == (name, part, 'data')
    assert cfg.template == read_templates(name)[0]
    assert set(cfg.targets) == set(FEW_SHOT) - {'shapes', 'imagenet'}
    assert set(cfg.domains) == {n for n in SETS if n.startswith('imagenet')} - {'imagenet'}


@pytest.mark.parametrize('name', ['coco2014', 'voc2007', 'nus-wide'])
def test_multi_label_configs_choose_nothing_on_test_images(name):
    cfg = Config.fromfile(BASES / f'datasets/{name}_multi-label.py')
    assert cfg.train_dataloader.dataset.name == cfg.test_dataloader.dataset.name == name
    assert cfg.val_dataloader is None and cfg.train_dataloader.dataset.split == 'train'
    assert all(step[-1].multi_label for step in (cfg.train_pipeline, cfg.test_pipeline))
