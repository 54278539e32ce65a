"""Runs on images without labels that were killed go on as if nothing had been; two processes compute what one does."""

from __future__ import annotations

import pytest
import torch
from classification.small_runs import ROOT, killed, train, train_tool, two_processes, weights
from engine.toy import scalars

LABELLED = 'train_dataloader.dataset'
QUICK = dict(
    upl=[
        f'{LABELLED}.top_k=2',
        f'{LABELLED}.dataset.num_scenes=60',
        'model.text_prompt.num_members=2',
    ],
)
COMMON = [
    'train_dataloader.batch_size=4',
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=1',
    'val_dataloader.dataset.dataset.num_scenes=60',
    'val_dataloader.dataset.shots=1',
    'test_dataloader.dataset.num_scenes=20',
]


@pytest.mark.parametrize('method', QUICK)
def test_a_killed_training_goes_on_bit_for_bit(method, tmp_path):
    (tmp_path / method).mkdir()
    config, small = f'{method}/{method}', [*QUICK[method], *COMMON, f'{LABELLED}.cache_dir={tmp_path / "features"}']
    whole = train(tmp_path / 'whole', config=config, small=small)
    killed('train', tmp_path, tmp_path / 'killed', *small, config=config, after=10)
    latest = (tmp_path / 'killed' / 'last_checkpoint').read_text()
    assert latest.endswith(('epoch_2.pth', 'epoch_3.pth'))
    for features in (tmp_path / 'features').glob('*/*.pt'):
        features.unlink()  # what the labellers saw is found anew
    train(tmp_path / 'killed', config=config, small=small, resume=('--resume',))
    expected, found = (weights(folder / 'epoch_4.pth') for folder in (whole, tmp_path / 'killed'))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize('method', QUICK)
def test_two_processes_give_the_curve_and_the_weights_of_one(method, tmp_path):
    options = {}
    for option in QUICK[method]:
        key, value = option.split('=')
        options[key] = int(value)
    for name, batch in (('one', 8), ('two', 4)):
        text = (
            f'_base_ = {str(ROOT / f"configs/{method}/{method}_shapes.py")!r}\n'
            f'train_dataloader = dict(batch_size={batch}, drop_last=True)\n'  # two processes fill up the rest
            'train_cfg = dict(max_epochs=3)\n'
            f'visualizer = dict(vis_backends=[dict(type="LocalVisBackend")], name="two-{method}-{name}")\n'
            'val_dataloader = val_cfg = val_evaluator = None\n'
            'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))\n'
            'custom_hooks = [dict(type=f"vlm_dense.{name}") for name in '
            '("SeedIterationHook", "AverageLossesHook", "CheckpointFitHook", "FrozenWeightsHook")]\n'
        )
        path = tmp_path / f'{name}.py'
        path.write_text(text)
        cfg = train_tool.launch.load_config(
            str(path), {**options, f'{LABELLED}.top_k': 8, f'{LABELLED}.cache_dir': str(tmp_path / 'features')}
        )
        cfg.dump(str(path))
    train_tool.main([str(tmp_path / 'one.py'), '--work-dir', str(tmp_path / 'one')])
    two_processes((tmp_path / 'two.py', tmp_path / 'two'))
    curves = [[row['loss'] for row in scalars(tmp_path / name) if 'loss' in row] for name in ('one', 'two')]
    assert len(curves[0]) >= 6 and curves[0] == pytest.approx(curves[1], abs=1e-4)
    one, two = (weights(tmp_path / name / 'epoch_3.pth') for name in ('one', 'two'))
    assert set(one) == set(two)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
