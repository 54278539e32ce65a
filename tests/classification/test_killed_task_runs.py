"""Runs over several tasks or a tree that were killed go on bit for bit; two processes compute what one does."""

from __future__ import annotations

import pytest
import torch
from classification.small_runs import config_of, killed, train, train_tool, two_processes, weights
from engine.toy import scalars

COMMON = [
    'train_dataloader.batch_size=4',
    'test_dataloader.batch_size=20',
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=1',
]
TASKS = [
    'train_dataloader.dataset.datasets.shots=1',
    'train_dataloader.dataset.datasets.dataset.num_scenes=100',
    'val_dataloader.dataset.datasets.shots=1',
    'val_dataloader.dataset.datasets.dataset.num_scenes=60',
    'test_dataloader.dataset.datasets.num_scenes=10',
]
TREE = [
    'train_dataloader.dataset.shots=1',
    'val_dataloader.dataset.shots=1',
    'test_dataloader.dataset.num_scenes=20',
    'train_dataloader.batch_size=16',
]
SMALL = dict(mvlpt_tasks=[*COMMON, *TASKS], protect=[*COMMON, *TREE])  # 4 iterations an epoch


@pytest.mark.parametrize('config', SMALL)
def test_a_killed_training_goes_on_bit_for_bit(config, tmp_path):
    small = SMALL[config]
    whole = train(tmp_path / 'whole', config=config, small=small)
    killed('train', tmp_path, tmp_path / 'killed', *small, config=config, after=10)
    assert (tmp_path / 'killed' / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    train(tmp_path / 'killed', config=config, small=small, resume=('--resume',))
    expected, found = (weights(folder / 'epoch_4.pth') for folder in (whole, tmp_path / 'killed'))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_two_processes_give_the_curve_and_the_weights_of_one(tmp_path):
    data = dict(mvlpt_tasks='', protect=', dataset=dict(shots=1)')
    for config, own in data.items():
        for name, batch in (('one', 64), ('two', 32)):
            (tmp_path / f'{config}_{name}.py').write_text(
                f'_base_ = {str(config_of(config))!r}\n'
                f'train_dataloader = dict(batch_size={batch}{own})\n'
                'train_cfg = dict(max_epochs=3)\n'
                f'visualizer = dict(vis_backends=[dict(type="LocalVisBackend")], name="two-{config}-{name}")\n'
                'val_dataloader = val_cfg = val_evaluator = None\n'
                'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))\n'
                'custom_hooks = [dict(type=f"vlm_dense.{name}") for name in '
                '("SeedIterationHook", "AverageLossesHook", "CheckpointFitHook", "FrozenWeightsHook")]\n'
            )
        train_tool.main([str(tmp_path / f'{config}_one.py'), '--work-dir', str(tmp_path / f'{config}_one')])
    two_processes(*((tmp_path / f'{config}_two.py', tmp_path / f'{config}_two') for config in data))
    for config in data:
        folders = [tmp_path / f'{config}_{name}' for name in ('one', 'two')]
        curves = [[row['loss'] for row in scalars(folder) if 'loss' in row] for folder in folders]
        assert len(curves[0]) == len(curves[1]) > 2 and curves[0] == pytest.approx(curves[1], abs=1e-4)
        one, two = (weights(folder / 'epoch_3.pth') for folder in folders)
        assert set(one) == set(two)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
