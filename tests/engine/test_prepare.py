"""What a method makes of data: once, before training or test, and not after a checkpoint was loaded."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine.processes import in_processes
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from vlm_dense.engine.hooks.prepare import PrepareHook


class Numbers(list):
    """Samples of one number each, and another one drawn at random."""

    metainfo = dict(classes=())

    def __init__(self, start: int, n: int):
        super().__init__(range(start, start + n))

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(super().__getitem__(index))]), drawn=float(torch.rand(())))


class Zero(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(zero=0.0)


class Collector(nn.Module):
    """Keeps the sum of the support set, and counts the calls."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.register_buffer('total', torch.zeros(2))

    def prepare(self, model, data):
        assert isinstance(model, Toy) and not model.training and set(data) == {'support'}
        type(self).calls += 1
        for batch in data['support']:
            self.total += torch.tensor([torch.cat(batch['inputs']).sum(), sum(batch['drawn'])])


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.collector = Collector()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, drawn=None, mode='tensor'):
        if mode == 'loss':
            return dict(loss=(self.weight * torch.cat(inputs)).sum())
        return [dict() for _ in inputs]


@pytest.fixture(autouse=True)
def _fresh():
    Collector.calls = 0


def runner(folder, name, **kwargs):
    loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    support = dict(type=Numbers, start=10, n=5)
    return Runner(
        model=Toy(),
        work_dir=str(folder),
        experiment_name=f'prepare-{name}',
        randomness=dict(seed=3),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[dict(type='vlm_dense.PrepareHook', data=dict(support=dict(batch_size=2, dataset=support)))],
        train_dataloader=dict(loader, dataset=Numbers(0, 4)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        test_dataloader=dict(loader, dataset=Numbers(0, 4)),
        test_cfg=dict(),
        test_evaluator=dict(type=Zero),
        **kwargs,
    )


def test_training_starts_from_what_was_prepared_and_the_checkpoint_holds_it(tmp_path):
    first = runner(tmp_path / 'a', 'a')
    first.train()
    total = first.model.collector.total
    assert total[0] == 10 + 11 + 12 + 13 + 14 and Collector.calls == 1
    first.test()
    assert Collector.calls == 1
    again = runner(tmp_path / 'b', 'b', load_from=str(tmp_path / 'a' / 'epoch_1.pth'))
    again.test()
    assert Collector.calls == 1
    assert torch.equal(again.model.collector.total, total)


def test_a_test_without_checkpoint_prepares_the_same(tmp_path):
    trained, tested = runner(tmp_path / 'c', 'c'), runner(tmp_path / 'd', 'd')
    trained.train()
    torch.rand(100)
    tested.test()
    assert Collector.calls == 2
    assert torch.equal(tested.model.collector.total, trained.model.collector.total)


class Finisher(nn.Linear):
    def finish(self, model, data):
        self.finished = True


def finish_after_a_slow_save(rank: int, folder: str) -> None:
    best, model, loaded = Path(folder, 'best.pth'), Finisher(1, 1), []
    if rank == 0:
        time.sleep(2)
        best.write_text('whole')
    run = SimpleNamespace(
        model=model,
        work_dir=folder,
        message_hub=SimpleNamespace(runtime_info=dict(best_ckpt=str(best))),
        logger=SimpleNamespace(info=print),
        load_checkpoint=lambda path: loaded.append(Path(path).read_text()),
        save_checkpoint=lambda *args, **kwargs: None,
        seed=0,
        rank=rank,
        epoch=1,
        iter=1,
        _resume=False,
    )
    PrepareHook().after_train(run)
    assert loaded == ['whole'] and model.finished


def test_all_processes_wait_for_the_best_checkpoint(tmp_path):
    in_processes(2, finish_after_a_slow_save, str(tmp_path))
