"""Runs that were killed go on as if nothing had been; two processes compute what one does."""

from __future__ import annotations

import pickle

import pytest
import torch
from classification.small_runs import config_of, evaluate, killed, train, train_tool, two_processes, weights
from engine.toy import scalars

from vlm_dense.methods.test_time.tda import TDA
from vlm_dense.methods.test_time.tpt import TPT

QUICK = [
    'train_dataloader.dataset.shots=2',
    'train_dataloader.dataset.dataset.num_scenes=100',
    'train_dataloader.batch_size=4',
    'val_dataloader.dataset.dataset.num_scenes=60',
    'val_dataloader.dataset.shots=1',
    'test_dataloader.dataset.num_scenes=20',
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=1',
]


AVERAGED = ['default_hooks.average.mean=3', 'default_hooks.average.std=1']  # the epochs before the kill count


@pytest.mark.parametrize(
    ('config', 'more'), [('coop', []), ('maple', []), ('plot', []), ('promptsrc', AVERAGED), ('prograd', [])]
)
def test_a_killed_training_goes_on_bit_for_bit(config, more, tmp_path):
    small = [*QUICK, *more]
    whole = train(tmp_path / 'whole', config=config, small=small)
    killed('train', tmp_path, tmp_path / 'killed', *small, config=config, after=10)
    assert (tmp_path / 'killed' / 'last_checkpoint').read_text().endswith('epoch_2.pth')
    train(tmp_path / 'killed', config=config, small=small, resume=('--resume',))
    expected, found = (weights(folder / 'epoch_4.pth') for folder in (whole, tmp_path / 'killed'))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def predictions(path) -> torch.Tensor:
    """Scores of all images that ``--out`` has kept."""
    with path.open('rb') as file:
        return torch.stack([torch.as_tensor(sample['pred_scores']) for sample in pickle.load(file)])


def test_a_killed_evaluation_by_tpt_goes_on_and_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    small = [
        'test_dataloader.dataset.num_scenes=11',
        'test_dataloader.batch_size=3',
        'test_dataloader.dataset.pipeline.1.num_views=8',
        'model.test_time.selection=0.25',
    ]
    outs = [tmp_path / f'{name}.pkl' for name in ('whole', 'killed', 'other')]
    whole = evaluate(tmp_path / 'whole', *small, config='tpt', more=('--out', str(outs[0])))
    assert not list((tmp_path / 'whole').glob('test_progress*'))
    killed('test', tmp_path, tmp_path / 'killed', *small, config='tpt', after=2)
    progress = tmp_path / 'killed' / 'test_progress_0.bin'
    progress.write_bytes(progress.read_bytes() + b'half of a record')

    adapted = []
    logits = TPT.logits
    monkeypatch.setattr(TPT, 'logits', lambda *args: adapted.append(1) or logits(*args))
    other = [*small, 'model.test_time.steps=2']
    started = progress.read_bytes()
    evaluate(tmp_path / 'killed', *other, config='tpt', more=('--out', str(outs[2])))
    assert len(adapted) == 11  # another model starts again
    assert not torch.equal(predictions(outs[2]), predictions(outs[0]))

    adapted.clear()
    progress.write_bytes(started)
    again = evaluate(tmp_path / 'killed', *small, config='tpt', more=('--out', str(outs[1])))
    assert len(adapted) == 11 - 2 * 3
    assert again == whole
    assert torch.equal(predictions(outs[1]), predictions(outs[0]))


def test_a_killed_stream_of_tda_goes_on_with_the_same_caches(tmp_path, monkeypatch):
    small = ['test_dataloader.dataset.num_scenes=23', 'test_dataloader.batch_size=3']
    streams, train = {}, TDA.train
    monkeypatch.setattr(TDA, 'train', lambda self, mode=True: streams.setdefault(id(self), self) and train(self, mode))
    outs = [tmp_path / f'{name}.pkl' for name in ('whole', 'killed')]
    whole = evaluate(tmp_path / 'whole', *small, config='tda', more=('--out', str(outs[0])))
    killed('test', tmp_path, tmp_path / 'killed', *small, config='tda', after=4)

    seen, look = [], TDA.look
    monkeypatch.setattr(TDA, 'look', lambda *args: seen.append(1) or look(*args))
    again = evaluate(tmp_path / 'killed', *small, config='tda', more=('--out', str(outs[1])))
    assert len(seen) == 23 - 4 * 3 and again == whole
    assert torch.equal(predictions(outs[1]), predictions(outs[0]))
    one, other = streams.values()
    for name, cache in one.caches.items():
        stored, again = cache.stored(), other.caches[name].stored()
        assert stored and [item.number for item in stored] == [item.number for item in again]
        for item, same in zip(stored, again, strict=True):
            assert item.entropy == same.entropy and torch.equal(item.feature, same.feature)


def test_two_processes_give_the_curve_and_the_weights_of_one(tmp_path):
    configs = ('coop', 'maple', 'plot', 'prograd')
    for config in configs:
        for name, batch in (('one', 8), ('two', 4)):
            (tmp_path / f'{config}_{name}.py').write_text(
                f'_base_ = {str(config_of(config))!r}\n'
                f'train_dataloader = dict(batch_size={batch}, dataset=dict(shots=4, dataset=dict(num_scenes=200)))\n'
                'train_cfg = dict(max_epochs=5)\n'
                f'visualizer = dict(vis_backends=[dict(type="LocalVisBackend")], name="two-{config}-{name}")\n'
                'val_dataloader = val_cfg = val_evaluator = None\n'
                'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5))\n'
                'custom_hooks = [dict(type=f"vlm_dense.{name}") for name in '
                '("SeedIterationHook", "AverageLossesHook", "CheckpointFitHook", "FrozenWeightsHook")]\n'
            )
        train_tool.main([str(tmp_path / f'{config}_one.py'), '--work-dir', str(tmp_path / f'{config}_one')])
    runs = [(tmp_path / f'{config}_two.py', tmp_path / f'{config}_two') for config in configs]
    two_processes(*runs)
    for config in configs:
        folders = [tmp_path / f'{config}_{name}' for name in ('one', 'two')]
        curves = [[row['loss'] for row in scalars(folder) if 'loss' in row] for folder in folders]
        assert len(curves[0]) == 20 and curves[0] == pytest.approx(curves[1], abs=1e-4)
        one, two = (weights(folder / 'epoch_5.pth') for folder in folders)
        assert set(one) == set(two)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
