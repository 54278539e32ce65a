"""A test that is cut off leaves its data loader as it was, and goes on only in the same precision."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from vlm_dense.engine.runner.resumable_test import ResumableTestLoop


def make_loop(**attributes) -> ResumableTestLoop:
    loop = object.__new__(ResumableTestLoop)
    vars(loop).update(attributes)
    return loop


def test_the_sampler_is_put_back_whatever_happens():
    loop = make_loop(dataloader=DataLoader(list(range(5)), 2, shuffle=False))
    with pytest.raises(KeyboardInterrupt), loop._without(2):
        assert [batch.tolist() for batch in loop.dataloader] == [[2, 3], [4]]
        raise KeyboardInterrupt
    assert isinstance(loop.dataloader.batch_sampler.sampler, SequentialSampler) and len(list(loop.dataloader)) == 3


def test_predictions_in_another_precision_are_not_taken_over(tmp_path):
    runner = SimpleNamespace(cfg={}, model=nn.Linear(2, 2), world_size=1)
    first, second = (make_loop(_runner=runner, fp16=fp16, dataloader=DataLoader([1])) for fp16 in (False, True))
    assert first._what_is_tested() != second._what_is_tested()
