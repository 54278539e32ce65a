"""LP++: which step is kept, that it learns, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from vlm_dense.errors import ConfigError
from vlm_dense.methods.adapters import lp_plus_plus
from vlm_dense.methods.adapters.lp_plus_plus import LPPlusPlus, rates, scores

NAMES, TOWER = ['circle', 'star', 'square'], SimpleNamespace(embed_dim=8)


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features around three directions, and their classes."""
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return F.normalize(2 * torch.eye(8)[labels] + noise, dim=1), labels


def test_the_last_of_the_best_steps_is_kept():
    images, labels = drawn(12, 0)
    text, head = F.normalize(torch.ones(3, 8) + torch.eye(8)[:3], dim=1), LPPlusPlus(NAMES, TOWER, epochs=40)
    head.begin(images, labels, text)
    validation = drawn(30, 1)
    head.fit(images, labels, text, validation)
    best = max(head.accuracies)
    assert head.best_epoch == max(i for i, value in enumerate(head.accuracies) if value == best)
    found = scores(validation[0], text, *head.buffers()).argmax(1) == validation[1]
    assert 100 * found.double().mean() == best
    assert head.losses[-1] < 0.5 * head.losses[0]


def test_without_validation_the_last_step_is_kept():
    images, labels = drawn(12, 0)
    head = LPPlusPlus(NAMES, TOWER, epochs=7)
    head.begin(images, labels, torch.eye(8)[:3])
    head.fit(images, labels, torch.eye(8)[:3])
    assert head.best_epoch == 6 and not head.accuracies and head.prepared


@pytest.mark.parametrize('sign, warned', [(1, False), (-1, True)])
def test_a_text_that_begins_against_its_classes_is_told(sign, warned, monkeypatch):
    told = []
    monkeypatch.setattr(lp_plus_plus, 'print_log', lambda message, **kwargs: told.append(message))
    head = LPPlusPlus(NAMES, TOWER)
    head.begin(*drawn(12, 0), sign * torch.eye(8)[:3])
    assert (head.alpha[0] < 0) == warned and bool(told) == warned
    assert not warned or 'speaks against each class' in told[0]


@pytest.mark.parametrize('count', [5, 20])
def test_the_rate_is_that_of_the_greatest_singular_value(count):
    images = drawn(count, 2)[0]
    rate, _ = rates(images, torch.eye(8)[:3])
    assert rate == pytest.approx(4 * count / torch.linalg.matrix_norm(images, 2).item() ** 2, rel=1e-5)


@pytest.mark.parametrize('options', [dict(epochs=0), dict(alpha_every=0)])
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ConfigError, match='at least 1'):
        LPPlusPlus(NAMES, TOWER, **options)
