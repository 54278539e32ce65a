"""Accuracy: what it counts, and that nothing but a right answer is right."""

from __future__ import annotations

import pytest
import torch

from vlm_dense.errors import ConfigError
from vlm_dense.registry import METRICS


def measure(scores, labels, **kwargs) -> dict:
    metric = METRICS.build(dict(type='vlm_dense.Accuracy', **kwargs))
    metric.process(
        None, [dict(pred_scores=torch.tensor(s), gt_label=torch.tensor(y)) for s, y in zip(scores, labels, strict=True)]
    )
    return metric.evaluate(len(labels))


def test_top_k_and_mean_over_classes():
    scores = [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [1.0, 2.0, 3.0]]
    assert measure(scores, [0, 0, 0, 1], topk=(1, 2)) == pytest.approx(
        dict(top1=25.0, top2=75.0, mean_class=100 * (1 / 3 + 0) / 2)
    )


def test_of_equal_scores_the_first_class_is_the_prediction():
    scores = [[1.0, 1.0], [1.0, 1.0]]
    assert measure(scores, [0, 1])['top1'] == 50.0


def test_scores_that_are_not_numbers_are_never_right():
    nan = float('nan')
    assert measure([[nan, nan], [nan, 1.0], [1.0, nan]], [0, 1, 0])['top1'] == 0.0


def test_a_k_that_is_always_right_is_refused():
    with pytest.raises(ConfigError, match='top-2 of 2 classes'):
        measure([[1.0, 2.0]], [0], topk=(1, 2))
    with pytest.raises(ConfigError, match='topk must hold numbers from 1'):
        measure([[1.0, 2.0]], [0], topk=(0,))
    assert measure([[1.0]], [0]) == dict(top1=100.0, mean_class=100.0)  # one class only
