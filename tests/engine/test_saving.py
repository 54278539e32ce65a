"""Checkpoints of a run that is cut off: nothing is lost, and what goes on is the uninterrupted run."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from vlm_dense.engine.files import last_checkpoint
from vlm_dense.engine.outputs import WRITTEN
from vlm_dense.engine.runner import runner
from vlm_dense.engine.runner.runner import SafeRunner
from vlm_dense.errors import CheckpointError, ConfigError

SCORES = [0.1, 0.5, 0.3, 0.9, 0.2, 0.4]
"""Of the validations after 1, 2, ... epochs or iterations."""


class Numbers(list):
    metainfo = dict(classes=('a',))


class Scripted(BaseMetric):
    """Gives ``SCORES`` in turn, by how often the model was trained."""

    default_prefix = 'scripted'
    calls = 0

    def process(self, data_batch, data_samples):
        self.results.extend(float(sample) for sample in data_samples)

    def compute_metrics(self, results):
        type(self).calls += 1
        return dict(score=SCORES[round(results[0]) - 1])


class Counter(BaseModel):
    """Counts its iterations in a buffer, and learns a weight."""

    def __init__(self, finished=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer('count', torch.zeros(()))

    def forward(self, inputs, mode='tensor'):
        if mode == 'loss':
            self.count += 1
            return dict(loss=(self.weight * torch.stack(list(inputs))).sum())
        return [self.count.clone() for _ in inputs]


class Cut(Exception):
    """Stands for a kill."""


def cut_off(function, number: int):
    """The function; the run is cut off at its call of this number."""
    calls = []

    def called(*args):
        calls.append(args)
        if len(calls) == number:
            raise Cut
        return function(*args)

    return called


_number = [0]


def build(folder, by_epoch=True, length=6, resume=None, kind=SafeRunner, **hook):
    _number[0] += 1
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='pseudo_collate'))
    data = Numbers(dict(inputs=torch.tensor(float(x))) for x in range(2))
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False)
    return kind(
        model=Counter(),
        work_dir=str(folder),
        experiment_name=f'saving-{_number[0]}',
        randomness=dict(seed=0),
        default_hooks=dict(
            checkpoint=dict(type='vlm_dense.SafeCheckpointHook', by_epoch=by_epoch, interval=1, max_keep_ckpts=1) | hook
        ),
        train_dataloader=dict(loader, dataset=data, sampler=sampler),
        train_cfg=dict(by_epoch=True, max_epochs=length, val_interval=1)
        if by_epoch
        else dict(by_epoch=False, max_iters=length, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        val_dataloader=dict(loader, dataset=data, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg=dict(),
        val_evaluator=dict(type=Scripted),
        load_from=resume,
        resume=resume is not None,
    )


BEST = dict(save_best='scripted/score', rule='greater')


def names(folder) -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir() if p.is_file() and p.suffix != '.py' and p.name != WRITTEN)


def weights(path) -> dict:
    return torch.load(path, weights_only=False)['state_dict']


def progress(path) -> list[int]:
    """What message hub and meta of a checkpoint tell about how far the run is."""
    checkpoint = torch.load(path, weights_only=False)
    told = (checkpoint['message_hub']['runtime_info'], checkpoint['meta'])
    return [place[key] for place in told for key in ('iter', 'epoch')]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_run_keeps_the_last_and_the_best(tmp_path, by_epoch):
    build(tmp_path, by_epoch, **BEST).train()
    step = 'epoch' if by_epoch else 'iter'
    expected = [f'best_scripted_score_{step}_4.pth', f'{step}_6.pth', 'last_checkpoint', 'last_validation']
    assert names(tmp_path) == expected
    assert weights(tmp_path / expected[0])['count'] == 4 and weights(tmp_path / expected[1])['count'] == 6
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / expected[1])


@pytest.mark.parametrize(('cut', 'by_epoch'), [*((cut, True) for cut in range(1, 13)), (5, False), (9, False)])
def test_a_run_that_is_cut_off_before_any_file_takes_its_place_goes_on_as_if_nothing_had_been(
    tmp_path, monkeypatch, cut, by_epoch
):
    whole, torn = tmp_path / 'whole', tmp_path / 'torn'
    build(whole, by_epoch, length=4, **BEST).train()
    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', cut_off(os.replace, cut))
        patched.setattr('vlm_dense.engine.files.remove', lambda path: None)  # a killed process tidies nothing up
        with pytest.raises(Cut):
            build(torn, by_epoch, length=4, **BEST).train()
    build(torn, by_epoch, length=4, resume=last_checkpoint(str(torn)), **BEST).train()
    assert names(torn) == names(whole)
    for name in names(whole):
        if name.endswith('.pth'):
            assert all(torch.equal(v, weights(torn / name)[k]) for k, v in weights(whole / name).items()), name
            assert progress(torn / name) == progress(whole / name)


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('cut', [1, 2])
def test_what_is_saved_after_a_validation_made_up_for_tells_the_same_progress(tmp_path, monkeypatch, cut, by_epoch):
    whole, torn = tmp_path / 'whole', tmp_path / 'torn'
    build(whole, by_epoch, length=2, **BEST).train()
    with monkeypatch.context() as patched:
        patched.setattr(Scripted, 'compute_metrics', cut_off(Scripted.compute_metrics, cut))
        with pytest.raises(Cut):
            build(torn, by_epoch, length=2, **BEST).train()
    build(torn, by_epoch, length=2, resume=last_checkpoint(str(torn)), **BEST).train()
    saved = [name for name in names(whole) if name.endswith('.pth')]
    assert names(torn) == names(whole) and len(saved) == 2
    assert [progress(torn / name) for name in saved] == [progress(whole / name) for name in saved]


@pytest.mark.parametrize('by_epoch', [True, False])
def test_what_is_saved_after_a_training_that_had_ended_tells_the_same_progress(tmp_path, by_epoch):
    first = build(tmp_path, by_epoch, length=2, **BEST)
    first.train()
    again = build(tmp_path, by_epoch, length=2, resume=last_checkpoint(str(tmp_path)), **BEST)
    again.train()
    told = [{key: r.message_hub.get_info(key) for key in ('iter', 'epoch')} for r in (first, again)]
    assert told[0] == told[1] == dict(iter=1, epoch=int(by_epoch))


def test_a_validation_that_was_cut_off_is_made_up_for_and_a_whole_one_is_not(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Scripted, 'compute_metrics', lambda self, results: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(tmp_path, length=2, **BEST).train()
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    Scripted.calls = 0
    build(tmp_path, length=2, resume=last_checkpoint(str(tmp_path)), **BEST).train()
    assert Scripted.calls == 2
    build(tmp_path, length=2, resume=last_checkpoint(str(tmp_path)), **BEST).train()
    assert Scripted.calls == 2 and names(tmp_path)[0] == 'best_scripted_score_epoch_2.pth'


def test_what_a_killed_run_began_to_write_is_removed(tmp_path):
    build(tmp_path, length=1, **BEST).train()
    before = names(tmp_path)
    for name in ('.epoch_2.partial.pth', '.last_checkpoint.partial'):
        (tmp_path / name).write_text('cut')
    build(tmp_path, length=1, resume=last_checkpoint(str(tmp_path)), **BEST).train()
    assert names(tmp_path) == before


def test_a_copied_work_dir_keeps_its_own_best_and_leaves_that_of_the_first(tmp_path):
    first, copy = tmp_path / 'first', tmp_path / 'copy'
    build(first, length=2, **BEST).train()
    before = names(first)
    shutil.copytree(first, copy)
    build(copy, length=4, resume=last_checkpoint(str(copy)), **BEST).train()
    assert names(first) == before
    assert names(copy)[:2] == ['best_scripted_score_epoch_4.pth', 'epoch_4.pth']


@pytest.mark.parametrize('share', [0.0, 0.5, 0.99])
def test_a_full_disk_takes_nothing_that_was_saved(tmp_path, monkeypatch, share):
    build(tmp_path, length=2, **BEST).train()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    room = share * len(before['epoch_2.pth'])

    class Full(io.BufferedWriter):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(28, 'No space left on device')
            return super().write(data)

    monkeypatch.setattr(runner, 'open', lambda path, mode: Full(io.FileIO(path, mode)), raising=False)
    with pytest.raises(CheckpointError, match=r'epoch_3.pth cannot be written: No space left on device.*--resume'):
        build(tmp_path, length=4, resume=last_checkpoint(str(tmp_path)), **BEST).train()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_checkpoint_is_written_without_a_second_copy_in_memory(tmp_path, monkeypatch):
    save, places = torch.save, []
    monkeypatch.setattr(torch, 'save', lambda content, file: places.append(file) or save(content, file))
    build(tmp_path, length=1).train()
    assert [type(place) for place in places] == [io.BufferedWriter]


def test_a_metric_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'scripted/skore' is not in the list of metrics.*'scripted/score'"):
        build(tmp_path, length=1, save_best='scripted/skore', rule='greater').train()


def test_what_the_optimiser_skips_is_told_in_one_line(tmp_path):
    run = build(tmp_path, length=1)
    run.model.frozen = nn.ModuleList(nn.Linear(2, 2).requires_grad_(False) for _ in range(3))
    run.optim_wrapper['paramwise_cfg'] = dict(bias_lr_mult=2.0)
    run.train()
    log = next(Path(run.log_dir).glob('*.log')).read_text()
    assert 'is skipped since' not in log and 'skips 6 parameters, which are frozen' in log


def test_a_model_that_nothing_trains_is_not_wrapped():
    run = object.__new__(SafeRunner)
    run._distributed = True
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert run.wrap_model(None, frozen) is frozen
