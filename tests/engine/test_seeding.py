from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from vlm_dense.engine.runner.seeding import SeededDataset, SeededSampler, seed_draws
from vlm_dense.errors import DataError


class Numbers(BaseDataset):
    """Index, and a random number of each generator."""

    def load_data_list(self):
        return [dict(number=i) for i in range(10)]

    def prepare_data(self, index):
        return self.get_data_info(index)['number'], random.random(), np.random.rand(), torch.rand(1).item()


DATASETS.register_module('SeedingTestNumbers', module=Numbers)


class RankSampler(InfiniteSampler):
    """InfiniteSampler of one of several processes."""

    def __init__(self, dataset, rank, world_size, **kwargs):
        super().__init__(dataset, **kwargs)
        self.rank, self.world_size = rank, world_size


DATA_SAMPLERS.register_module('SeedingTestRankSampler', module=RankSampler)


def draws(count: int, workers: int = 0, skip: int = 0, seed: int = 0, **sampler) -> list:
    """The first ``count`` samples of a run."""
    dataset = SeededDataset(dict(type='SeedingTestNumbers'))
    sampler = SeededSampler(dict(type='InfiniteSampler') | sampler, dataset, seed)
    if skip:
        sampler.skip(skip)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=list)
    return [sample for _, batch in zip(range(count // 2), loader, strict=False) for sample in batch]


def test_draws_do_not_depend_on_workers_or_on_what_came_before():
    expected = draws(24)
    assert len(set(expected)) == 24
    torch.manual_seed(99)
    assert draws(24, workers=2) == expected
    assert draws(24, seed=1) != expected


def test_a_resumed_stream_goes_on_where_the_other_was_cut():
    if not hasattr(InfiniteSampler, 'skip'):
        pytest.skip('this mmengine draws and drops what was seen')
    assert draws(12, skip=12) == draws(24)[12:]


def test_several_processes_draw_what_one_draws():
    parts = [draws(12, type='SeedingTestRankSampler', rank=r, world_size=2) for r in range(2)]
    assert [sample for pair in zip(*parts, strict=True) for sample in pair] == draws(24)


def test_epochs_differ():
    dataset = SeededDataset(dict(type='SeedingTestNumbers'))
    sampler = SeededSampler(dict(type='DefaultSampler', shuffle=False), dataset, 0)
    first = [dataset[i] for i in sampler]
    sampler.set_epoch(1)
    second = [dataset[i] for i in sampler]
    assert [s[0] for s in first] == [s[0] for s in second] == list(range(10))
    assert not set(first) & set(second)
    assert len(sampler) == 10 and not hasattr(sampler, 'skip')


def test_the_wrapped_data_set_is_within_reach():
    dataset = SeededDataset(dict(type='SeedingTestNumbers', metainfo=dict(classes=('a',))))
    index = next(iter(SeededSampler(dict(type='InfiniteSampler', shuffle=False), dataset, 0)))
    assert index > 1 << 40 and dataset.get_data_info(index)['number'] == 0
    assert dataset.metainfo['classes'] == ('a',)
    dataset.pipeline = 'changed by a hook'
    assert dataset.dataset.pipeline == 'changed by a hook'


def test_an_empty_data_set_is_refused():
    with pytest.raises(DataError, match='is empty'):
        SeededSampler(dict(type='InfiniteSampler'), SeededDataset([]), 0)


def test_a_config_is_wrapped_once():
    loader = dict(dataset=dict(type='A'), sampler=dict(type='B'))
    cfg = Config(dict(train_dataloader=loader))
    seed_draws(cfg)
    seed_draws(cfg)
    assert cfg.train_dataloader.dataset == dict(type='vlm_dense.SeededDataset', dataset=dict(type='A'))
    assert cfg.train_dataloader.sampler == dict(type='vlm_dense.SeededSampler', sampler=dict(type='B'))


@pytest.mark.parametrize(('batch_size', 'sizes'), [(4, [4, 4]), (5, [5, 5]), (16, [10])])
def test_batches_are_full_unless_one_holds_all_images(batch_size, sizes):
    cfg = dict(batch_size=batch_size, num_workers=0, dataset=dict(type='SeedingTestNumbers'), collate_fn=list)
    cfg |= dict(
        sampler=dict(type='DefaultSampler', shuffle=True), batch_sampler=dict(type='vlm_dense.FullBatchSampler')
    )
    cfg = Config(dict(train_dataloader=cfg))
    seed_draws(cfg)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    first = [[number for number, *_ in batch] for batch in loader]
    assert list(map(len, first)) == sizes and len(loader) == len(sizes)
    loader.batch_sampler.sampler.set_epoch(1)  # as mmengine's hook does
    assert [[number for number, *_ in batch] for batch in loader] != first
