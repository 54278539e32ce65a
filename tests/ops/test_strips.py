"""Enlargement by strips against torch's interpolation of whole maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlm_dense.segmentation import strips
from vlm_dense.segmentation.strips import Enlargement, channels_last, enlarged_max, strip_loss

SIZES = [(1, 1), (3, 5), (16, 16), (7, 2), (1, 9)], [(1, 1), (16, 16), (37, 41), (64, 20), (5, 1), (2, 3)]


@pytest.fixture(params=[60, 2**19], ids=['rows', 'whole'])
def budget(request, monkeypatch):
    """Strips of a row or two, and whole batches in one strip."""
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', request.param)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('large', SIZES[1], ids=str)
@pytest.mark.parametrize('small', SIZES[0], ids=str)
def test_strips_and_their_gradient_are_those_of_interpolation(small, large, align_corners, budget):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True)
    wanted = F.interpolate(maps, large, mode='bilinear', align_corners=align_corners)
    factor = torch.randn_like(wanted)
    (wanted_grad,) = torch.autograd.grad((wanted * factor).sum(), maps)

    def of_strip(strip, images, rows):
        part = factor.permute(0, 2, 3, 1)[images, rows]
        found.append(strip.clone())
        total = (strip * part).sum()
        strip.copy_(part)
        return total, torch.tensor(part.numel())

    found: list = []
    total, count = strip_loss(maps, large, of_strip, align_corners)
    (grad,) = torch.autograd.grad(3 * total, maps)
    assert count == wanted.numel()
    # torch's weights are in single precision for one and in double for the other
    torch.testing.assert_close(total, (wanted * factor).sum(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(grad, 3 * wanted_grad, rtol=1e-5, atol=1e-4)
    joined = torch.cat([x.flatten(0, 2) for x in found])
    torch.testing.assert_close(joined, wanted.permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-5, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences(monkeypatch):
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', 60)
    maps = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)

    def square(strip, images, rows):
        total = (strip**2).sum()
        strip.mul_(2)
        return total, total.detach()

    assert torch.autograd.gradcheck(lambda x: strip_loss(x, (8, 9), square)[0], [maps])


def test_a_second_derivative_is_refused():
    maps = torch.randn(1, 2, 2, 2, requires_grad=True)
    total, _ = strip_loss(maps, (4, 4), lambda s, i, r: (s.sum(), s.sum()))
    (grad,) = torch.autograd.grad(total, maps, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable|does not require grad'):
        grad.sum().backward()


@pytest.mark.parametrize(
    ('batch', 'size', 'channels'), [(1, (7, 5), 3), (3, (4, 4), 2), (40, (2, 2), 1), (2, (3, 90), 9)]
)
def test_strips_cover_everything_once(batch, size, channels, monkeypatch):
    monkeypatch.setitem(strips._ELEMENTS, 'cpu', 60)
    seen = torch.zeros(batch, size[0])
    for images, rows in strips.strips(batch, size, channels, torch.device('cpu')):
        seen[images, rows] += 1
        one_row = rows.stop - rows.start == 1 and images.stop - images.start == 1
        assert one_row or seen[images, rows].numel() * size[1] * channels <= 60
    assert (seen == 1).all()


def test_half_precision_enters_as_single():
    maps = torch.randn(1, 2, 2, 2, dtype=torch.bfloat16)
    assert channels_last(maps).dtype == torch.float32 and channels_last(maps.double()).dtype == torch.float64


@pytest.mark.parametrize('align_corners', [False, True])
def test_largest_value_and_first_channel(align_corners, budget):
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 5, 6)
    maps = torch.cat([maps, maps], dim=1)  # each channel ties with another
    values, channels = enlarged_max(maps, (23, 31), align_corners)
    whole = F.interpolate(maps, (23, 31), mode='bilinear', align_corners=align_corners)
    torch.testing.assert_close(values, whole.amax(dim=1))
    assert channels.max() < 4 and torch.equal(channels, whole[:, :4].argmax(dim=1))


def test_rows_of_the_source_are_as_few_as_can_be():
    enlargement = Enlargement((8, 8), (32, 32))
    assert enlargement.source(slice(0, 2)) == slice(0, 2) and enlargement.source(slice(6, 10)) == slice(1, 3)
    assert enlargement.source(slice(31, 32)) == slice(7, 8)
