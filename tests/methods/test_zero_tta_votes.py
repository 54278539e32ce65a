"""ZERO: votes, ties and what decides them, by hand; options that cannot work are refused."""

from __future__ import annotations

import pytest
import torch

from vlm_dense.errors import ConfigError
from vlm_dense.methods.test_time.zero_tta import ZERO

NAMES = ['circle', 'star', 'square', 'cross']


def scores(*best: tuple[int, ...]) -> torch.Tensor:
    """Logits of views with the classes in this order, the best first."""
    rows = torch.zeros(len(best), len(NAMES))
    for row, order in zip(rows, best, strict=True):
        row[list(order)] = torch.linspace(1, 0, len(order))
    return rows


@pytest.mark.parametrize(
    ('votes', 'discarded', 'winner', 'decided_by'),
    [
        ([1, 3, 0, 1], [(0, 1, 2, 3)], 1, 0),
        ([2, 0, 2, 1], [(1, 0, 2, 3), (2, 0, 1, 3), (0, 2, 1, 3)], 2, 1),
        ([2, 0, 2, 1], [(1, 3, 2, 0), (3, 0, 1, 2)], 2, 2),
    ],
    ids=['majority', 'a later discarded view', 'the best of the tied'],
)
def test_a_tie_is_decided_by_discarded_views(votes, discarded, winner, decided_by):
    found = ZERO(NAMES).decide(torch.tensor(votes).float(), scores(*discarded))
    assert found == (winner, decided_by)


def test_the_released_fallback_leaves_out_other_classes():
    votes = torch.tensor([2.0, 2.0, 1.0, 0.0])  # tied 0 and 1: it leaves out 3 and 2 in their place
    assert ZERO(NAMES, fallback='released').decide(votes, scores((2, 3, 1, 0))) == (1, 2)
    votes = torch.tensor([2.0, 0.0, 0.0, 2.0])  # tied 0 and 3: it leaves out 3 and 0, so that an untied class is left
    assert ZERO(NAMES, fallback='released').decide(votes, scores((1, 0, 2, 3))) == (1, 2)
    assert ZERO(NAMES).decide(votes, scores((1, 0, 2, 3))) == (0, 2)
    votes = torch.tensor([1.0, 1.0, 0.0, 1.0])  # tied 0, 1 and 3: what is left, 1 of 3, 2, 0, had as many votes
    assert ZERO(NAMES, fallback='released').decide(votes, scores((2, 0, 1, 3))) == (1, 2)


def test_a_temperature_softens_the_votes():
    cosines = torch.tensor([[0.3, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.0]])
    assert ZERO(NAMES).votes(cosines).tolist() == [1, 0, 1, 0]
    weights = (cosines / 0.01).double().exp()
    wanted = (weights / weights.sum(1, keepdim=True)).sum(0)
    torch.testing.assert_close(ZERO(NAMES, temperature=0.01).votes(cosines).double(), wanted)


@pytest.mark.parametrize(
    ('options', 'word'),
    [(dict(selection=1.0), 'selection'), (dict(temperature=-1), 'temperature'), (dict(fallback='none'), 'fallback')],
)
def test_options_that_cannot_work_are_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        ZERO(NAMES, **options)


def test_a_share_that_keeps_no_view_is_refused():
    with pytest.raises(ConfigError, match='keeps none'):
        ZERO(NAMES, selection=0.3).split(torch.zeros(3, 4))
