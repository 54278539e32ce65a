"""CoOp on drawn scenes as a user runs it, made small: zero-shot before, accuracy after, resumed bit for bit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
import test as test_tool  # noqa: E402
import train as train_tool  # noqa: E402

SMALL = [
    'train_dataloader.dataset.shots=4',
    'train_dataloader.dataset.dataset.num_scenes=200',
    'val_dataloader.dataset.shots=1',
    'val_dataloader.dataset.dataset.num_scenes=60',
    'test_dataloader.dataset.num_scenes=60',
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
]


@pytest.fixture(scope='module', autouse=True)
def _scope_of_other_tests():
    """A run sets mmengine's default scope for the whole process."""
    before = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def train(work_dir, *options, config='coop', resume=()):
    train_tool.main(
        [
            str(ROOT / f'configs/{config}_shapes.py'),
            '--work-dir',
            str(work_dir),
            *resume,
            '--cfg-options',
            *SMALL,
            *options,
        ]
    )
    return work_dir


def weights(path) -> dict:
    return torch.load(path, weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp('coop'))


def test_zero_shot_before_and_accuracy_after_are_told(run):
    log = next(run.glob('*/*.log')).read_text()
    before = re.search(r"Before training, zero-shot with 'a photo of a {}.': (top1 \S+, mean_class \S+)", log)[1]
    after, again = re.search(r'After training: (top1 \S+, mean_class \S+) \(zero-shot: (.*)\)', log).groups()
    assert again == before != after


def test_the_checkpoint_holds_the_prompt_alone_and_can_be_tested(run):
    assert set(weights(run / 'epoch_4.pth')) == {'text_prompt.ctx'}
    test_tool.main(
        [
            str(ROOT / 'configs/coop_shapes.py'),
            str(run / 'epoch_4.pth'),
            '--work-dir',
            str(run / 'test'),
            '--cfg-options',
            *SMALL,
        ]
    )
    after = re.search(r'After training: top1 (\S+),', next(run.glob('*/*.log')).read_text())[1]
    tested = re.search(r'top1: (\S+)', next((run / 'test').glob('*/*.log')).read_text())[1]
    assert float(tested) == pytest.approx(float(after), abs=0.01)


def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    resume = ('--resume', str(run / 'epoch_2.pth'))
    again = train(tmp_path, resume=resume)
    assert torch.equal(
        weights(again / 'epoch_4.pth')['text_prompt.ctx'], weights(run / 'epoch_4.pth')['text_prompt.ctx']
    )


@pytest.mark.parametrize('config', ['cocoop', 'kgcoop'])
def test_the_other_configs_train(config, tmp_path):
    work_dir = train(tmp_path, 'train_cfg.max_epochs=1', config=config)
    assert 'After training: top1' in next(work_dir.glob('*/*.log')).read_text()
