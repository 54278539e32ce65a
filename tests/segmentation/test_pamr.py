"""PAMR equals its formula, written as loops, and follows the edges of the image."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm_dense.errors import ConfigError
from vlm_dense.segmentation.pamr import PAMR


def brute_force(image: torch.Tensor, masks: torch.Tensor, iterations: int, dilations: tuple[int, ...]) -> torch.Tensor:
    """The formula of the docstring, pixel by pixel."""
    _, height, width = image.shape

    def neighbours(y: int, x: int) -> list[tuple[int, int]]:
        places = []
        for d in dilations:
            for dy in (-d, 0, d):
                for dx in (-d, 0, d):
                    if (dy, dx) != (0, 0):
                        places.append((min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)))
        return places

    for _ in range(iterations):
        refined = torch.zeros_like(masks)
        for y in range(height):
            for x in range(width):
                places = neighbours(y, x)
                alikeness = []
                for v, u in places:
                    total = 0.0
                    for channel in image:
                        own = [channel[y, x]] * len(dilations)
                        values = torch.stack([*own, *(channel[b, a] for b, a in places)])
                        sigma = values.std().item()
                        total -= abs(channel[v, u] - channel[y, x]).item() / (0.1 * sigma + 1e-8)
                    alikeness.append(total / len(image))
                weights = [math.exp(k - max(alikeness)) for k in alikeness]
                for weight, (v, u) in zip(weights, places, strict=True):
                    refined[:, y, x] += weight / sum(weights) * masks[:, v, u]
        masks = refined
    return masks


@pytest.mark.parametrize(('iterations', 'dilations'), [(1, (1,)), (3, (1, 2)), (2, (1, 4))])
def test_equals_the_formula_written_as_loops(iterations, dilations):
    image, masks = torch.rand(3, 5, 6), torch.rand(4, 5, 6)
    found = PAMR(iterations, dilations).on(image)(masks)
    torch.testing.assert_close(found, brute_force(image, masks, iterations, dilations), rtol=1e-4, atol=1e-5)


def test_does_not_depend_on_how_the_image_was_normalised():
    image, masks = torch.rand(3, 12, 14), torch.rand(2, 12, 14)
    normalised = (image - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.1])[:, None, None]
    torch.testing.assert_close(PAMR(2).on(image)(masks), PAMR(2).on(normalised)(masks), rtol=1e-3, atol=1e-4)


def test_moves_the_border_of_a_mask_to_the_edge_in_the_image():
    image = torch.zeros(3, 24, 24)
    image[:, :, 12:] = 1.0
    image += 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 24, 24)
    masks[0, :, :9], masks[1, :, 9:] = 1.0, 1.0  # 3 px off
    labels = PAMR(10, (1, 2, 4)).on(image)(masks).argmax(0)
    truth = (torch.arange(24) >= 12).long().expand(24, 24)
    assert (labels == truth).float().mean() > (masks.argmax(0) == truth).float().mean() + 0.08


def test_masks_that_sum_to_one_still_do():
    masks = torch.rand(5, 9, 7).softmax(0)
    torch.testing.assert_close(PAMR().on(torch.rand(3, 9, 7))(masks).sum(0), torch.ones(9, 7))


def test_a_flat_image_gives_plain_means():
    masks = torch.rand(1, 6, 6)
    found = PAMR(1, (1,)).on(torch.full((3, 6, 6), 0.3))(masks)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0, 2, 2], (masks[0, 1:4, 1:4].sum() - masks[0, 2, 2]) / 8)


@pytest.mark.parametrize('options', [dict(iterations=0), dict(dilations=()), dict(dilations=(1, 0))])
def test_arguments_must_be_positive(options):
    with pytest.raises(ConfigError, match='must be positive'):
        PAMR(**options)


def test_the_affinities_are_in_memory_once():
    image, whole = torch.rand(3, 96, 80), 48 * 96 * 80

    class Whole(TorchDispatchMode):
        seen: ClassVar[set] = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in tree_leaves(out):
                if torch.is_tensor(x) and x.untyped_storage().nbytes() >= 4 * whole:
                    self.seen.add(x.untyped_storage().data_ptr())
            return out

    with Whole():
        affinity = PAMR()._affinity(image)
    assert len(Whole.seen) == 1 and affinity.numel() == whole
    torch.testing.assert_close(affinity.sum(dim=0), torch.ones(96, 80))
