"""GDA-CLIP: its logits are Gaussian log-densities, whatever the precision; options that cannot work are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.adapters.gda_clip import GDACLIP, GDACLIPUnseen, covariance

NAMES, TOWER = ['circle', 'star', 'square'], SimpleNamespace(embed_dim=4)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_differences_between_classes_are_those_of_log_densities():
    head, means, root = GDACLIP(NAMES, TOWER), drawn(3, 4), drawn(4, 4)
    precision = root @ root.T + torch.eye(4)
    head._set(means, precision)
    features = drawn(5, 4)
    densities = MultivariateNormal(means, precision_matrix=precision).log_prob(F.normalize(features, dim=1)[:, None])
    found = head.discriminant(features)
    torch.testing.assert_close(found - found[:, :1], densities - densities[:, :1], rtol=1e-4, atol=1e-4)


def test_the_ridge_makes_the_precision_of_few_vectors_definite():
    vectors, labels = drawn(4, 4), torch.tensor([0, 0, 1, 2])
    means = torch.stack([vectors[:2].mean(0), vectors[2], vectors[3]])  # one direction is all that is left to see
    values = torch.linalg.eigvalsh(GDACLIP(NAMES, TOWER).precision(vectors, labels, means))
    assert values.min() > 0 and values.max() / values.min() < 10
    with pytest.raises(DataError, match='two vectors'):
        GDACLIP(NAMES, TOWER, ridge=False).precision(vectors, labels, means)


def test_the_covariance_is_that_of_torch():
    torch.testing.assert_close(covariance(drawn(9, 4)), torch.cov(drawn(9, 4).T))


def test_a_class_without_images_is_described_by_the_nearest_vectors():
    text, vectors = F.normalize(drawn(3, 4), dim=1), F.normalize(drawn(20, 4), dim=1)
    head = GDACLIPUnseen(NAMES, TOWER, neighbours=3, copies=2)
    means, _ = head.describe(text, vectors)
    for mean, one in zip(means, text, strict=True):
        near = sorted(vectors.tolist(), key=lambda v: -sum(a * b for a, b in zip(v, one.tolist(), strict=True)))[:3]
        torch.testing.assert_close(mean, torch.tensor([*near, one.tolist(), one.tolist()]).mean(0))


@pytest.mark.parametrize(
    ('kind', 'options', 'word'),
    [
        (GDACLIP, dict(passes=0), 'passes'),
        (GDACLIP, dict(alphas=()), 'alphas'),
        (GDACLIPUnseen, dict(neighbours=1), 'neighbours'),
    ],
)
def test_options_that_cannot_work_are_refused(kind, options, word):
    with pytest.raises(ConfigError, match=word):
        kind(NAMES, TOWER, **options)
