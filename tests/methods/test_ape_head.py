"""APE: the similarity of channels by brute force; options that cannot work are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vlm_dense.errors import ConfigError
from vlm_dense.methods.adapters.ape import APE, APET, class_similarity

NAMES, TOWER = ['circle', 'star', 'square'], SimpleNamespace(embed_dim=6)


def test_similarity_is_the_mean_over_all_pairs_of_different_classes():
    members, owner = torch.randn(9, 6), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2])
    products = [
        a * b for a, i in zip(members, owner, strict=True) for b, j in zip(members, owner, strict=True) if i != j
    ]
    torch.testing.assert_close(class_similarity(members, owner), torch.stack(products).mean(dim=0))


def test_the_channel_that_tells_classes_apart_comes_first():
    text = torch.full((3, 6), 0.3)
    text[:, 4] = torch.tensor([1.0, -1.0, 0.0])
    head = APE(NAMES, TOWER, shots=1, channels=1, images_count=False)
    assert head.criterion(text).argmax() == 4


@pytest.mark.parametrize('kind', [APE, APET])
@pytest.mark.parametrize(
    ('names', 'options', 'word'),
    [
        (NAMES, dict(channels=7), 'channels'),
        (NAMES, dict(channels=0), 'channels'),
        (NAMES, dict(channels=2, weights=(1.0,)), 'weights'),
        (NAMES, dict(channels=2, search_step=(3,)), 'search_step'),
        (NAMES[:1], dict(channels=2), 'one class'),
    ],
)
def test_options_that_cannot_work_are_refused(kind, names, options, word):
    with pytest.raises(ConfigError, match=word):
        kind(names, TOWER, shots=1, **options)
