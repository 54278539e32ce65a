from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from engine.processes import in_processes
from torch import nn

from vlm_dense.engine.hooks.losses import AverageLossesHook, StopOnInvalidLoss
from vlm_dense.errors import InvalidLossError


def make_runner(work_dir):
    return SimpleNamespace(iter=41, work_dir=str(work_dir), model=nn.Linear(2, 2))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_an_invalid_loss_is_named_with_iteration_and_last_checkpoint(tmp_path, value):
    (tmp_path / 'last_checkpoint').write_text('runs/iter_40.pth')
    outputs = {'decode.loss_ce': torch.tensor(value), 'aux.loss_ce': torch.tensor(1.0), 'loss': torch.tensor(value)}
    with pytest.raises(InvalidLossError, match=rf'^decode.loss_ce is {value} at iteration 42\..*runs/iter_40.pth'):
        StopOnInvalidLoss().after_train_iter(make_runner(tmp_path), 41, outputs=outputs)


def test_sound_losses_and_invalid_accuracies_pass(tmp_path):
    outputs = {'loss': torch.tensor(1.0), 'acc': torch.tensor(float('nan'))}
    StopOnInvalidLoss().after_train_iter(make_runner(tmp_path), 0, outputs=outputs)


def test_broken_weights_are_not_saved(tmp_path):
    runner = make_runner(tmp_path)
    StopOnInvalidLoss().before_save_checkpoint(runner, {})
    runner.model.bias.data[0] = float('nan')
    with pytest.raises(InvalidLossError, match='first bias.*No checkpoint was saved yet'):
        StopOnInvalidLoss().before_save_checkpoint(runner, {})


def average_of_two_batches(rank: int) -> None:
    first = {'loss': torch.tensor(1.0 + 2 * rank), 'a.loss': torch.tensor(4.0 * rank), 'z.loss': torch.tensor(rank)}
    if rank == 0:
        first['distill.loss'] = torch.tensor(2.0)
    AverageLossesHook().after_train_iter(None, 0, outputs=first)
    second = {'loss': 5.0} if rank else {'loss': 7.0, 'b.loss': 1.0, 'c.loss': 2.0}
    AverageLossesHook().after_train_iter(None, 1, outputs=second)
    found = [{name: float(value) for name, value in outputs.items()} for outputs in (first, second)]
    expected = [{'loss': 2.0, 'a.loss': 2.0, 'z.loss': 0.5}, {'loss': 6.0}]
    if rank == 0:
        expected[0] |= {'distill.loss': 2.0}
        expected[1] |= {'b.loss': 1.0, 'c.loss': 2.0}
    assert found == expected, (rank, found)


def test_losses_that_only_some_processes_have_are_averaged_over_these():
    in_processes(2, average_of_two_batches)
