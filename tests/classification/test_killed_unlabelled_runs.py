"""Runs on images without labels that were killed go on as if nothing had been; two processes compute what one does."""

from __future__ import annotations

import pytest
import torch
from classification.small_runs import ROOT, killed, train, train_tool, two_processes, weights
from engine.toy import scalars

from vlm_dense.classification import ContrastivePretraining
from vlm_dense.engine.runner.launch import load_config

DATA = 'train_dataloader.dataset'
FEW = {
    'val_dataloader.dataset.dataset.num_scenes': 60,
    'val_dataloader.dataset.shots': 1,
    'test_dataloader.dataset.num_scenes': 20,
}
RUNS = {
    'upl/upl': {f'{DATA}.top_k': 8, f'{DATA}.dataset.num_scenes': 60, 'model.text_prompt.num_members': 2, **FEW},
    'svl_adapter/svl_adapter_ssl': {f'{DATA}.num_scenes': 32},
    'svl_adapter/svl_adapter': {f'{DATA}.dataset.num_scenes': 100, f'{DATA}.shots': 4, **FEW},
}


def options_of(config: str, folder) -> dict:
    """Changes of a config that make it small and keep its files in a folder."""
    options = dict(RUNS[config])
    if config.startswith('upl'):
        options[f'{DATA}.cache_dir'] = str(folder / 'features')
    if config == 'svl_adapter/svl_adapter':
        torch.save(dict(state_dict=ContrastivePretraining('test_efficientnet_gn').state_dict()), folder / 'ssl.pth')
        options['model.head.pretrained'] = str(folder / 'ssl.pth')
        options['default_hooks.prepare.data.search.dataset.dataset.num_scenes'] = 60
    return options


@pytest.mark.parametrize('config', RUNS)
def test_a_killed_training_goes_on_bit_for_bit(config, tmp_path):
    (tmp_path / config).parent.mkdir()
    options = options_of(config, tmp_path) | {
        'train_dataloader.batch_size': 8,
        'train_cfg.max_epochs': 4,
        'train_cfg.val_interval': 4,
        'default_hooks.checkpoint.interval': 1,
    }
    small = [f'{key}={value}' for key, value in options.items()]
    whole = train(tmp_path / 'whole', config=config, small=small)
    killed('train', tmp_path, tmp_path / 'killed', *small, config=config, after=10)
    assert (tmp_path / 'killed' / 'last_checkpoint').read_text().endswith(('epoch_1.pth', 'epoch_2.pth'))
    for features in (tmp_path / 'features').glob('*/*.pt'):
        features.unlink()  # what the labellers saw is found again
    train(tmp_path / 'killed', config=config, small=small, resume=('--resume',))
    expected, found = (weights(folder / 'epoch_4.pth') for folder in (whole, tmp_path / 'killed'))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    if config == 'svl_adapter/svl_adapter':
        alphas = [weights(folder / 'finished.pth')['head.alpha'] for folder in (whole, tmp_path / 'killed')]
        assert torch.equal(*alphas)


@pytest.mark.parametrize('config', RUNS)
def test_two_processes_give_the_curve_and_the_weights_of_one(config, tmp_path):
    ssl = config.endswith('ssl')  # a ResNet from random weights multiplies rounding with each step: fewer of them, and
    epochs = 2 if ssl else 3  # SGD, since a step of AdamW has the sign of a gradient, however near to zero
    optimizer = "dict(optimizer=dict(_delete_=True, type='SGD', lr=0.02))" if ssl else 'dict()'
    for name, batch in (('one', 8), ('two', 4)):
        path = tmp_path / f'{name}.py'
        path.write_text(
            f'_base_ = {str(ROOT / f"configs/{config}_shapes.py")!r}\n'
            f'train_dataloader = dict(batch_size={batch}, drop_last=True)\n'  # else two processes fill up
            f'train_cfg = dict(max_epochs={epochs})\noptim_wrapper = {optimizer}\n'
            f'visualizer = dict(vis_backends=[dict(type="LocalVisBackend")], name="two-{config}-{name}")\n'
            'val_dataloader = val_cfg = val_evaluator = None\n'
            'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))\n'
            'custom_hooks = [dict(type=f"vlm_dense.{name}") for name in '
            '("SeedIterationHook", "AverageLossesHook", "CheckpointFitHook", "FrozenWeightsHook")]\n'
        )
        options = {k: v for k, v in options_of(config, tmp_path).items() if not k.startswith('val_dataloader')}
        load_config(str(path), options).dump(str(path))
    train_tool.main([str(tmp_path / 'one.py'), '--work-dir', str(tmp_path / 'one')])
    two_processes((tmp_path / 'two.py', tmp_path / 'two'))
    rounding = 1e-3 if ssl else 1e-4
    curves = [[row['loss'] for row in scalars(tmp_path / name) if 'loss' in row] for name in ('one', 'two')]
    assert len(curves[0]) >= 6 and curves[0] == pytest.approx(curves[1], abs=rounding)
    assert curves[0][:6] == pytest.approx(curves[1][:6], abs=3e-5)
    one, two = (weights(tmp_path / name / f'epoch_{epochs}.pth') for name in ('one', 'two'))
    assert set(one) == set(two)
    for key, value in one.items():
        if ssl:
            assert (two[key] - value).float().norm() <= 3e-2 * value.float().norm() + 1e-4, key
        else:
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)
