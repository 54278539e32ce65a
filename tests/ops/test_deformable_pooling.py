"""Deformable pooling of regions, and deformable convolution with offsets larger than its output, against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from vlm_dense.ops import is_stand_in  # before mmcv.ops

# isort: split
from mmcv import ops

pytestmark = pytest.mark.skipif(not is_stand_in(), reason='mmcv has its compiled kernels')


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def corners_of(y, x, height, width):
    """Rows, columns and shares of a sample after clamping, or None outside."""
    if not (-1 <= y <= height and -1 <= x <= width):
        return None
    v, u = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(v), height - 1), min(int(u), width - 1)
    return top, min(top + 1, height - 1), left, min(left + 1, width - 1), v - top, u - left


def plain_pool(image, rois, offset, size, scale, ratio, gamma, grad):
    """Output, gradient by the image, and gradient by the offset as mmcv defines it, bin by bin."""
    out = torch.zeros(len(rois), image.shape[1], *size)
    by_image, by_offset = torch.zeros_like(image), torch.zeros(len(rois), 2, *size)
    height, width = image.shape[2:]
    for k, (n, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - 0.5 for c in (x1, y1, x2, y2))
        w, h = x2 - x1, y2 - y1
        gh, gw = ratio or max(math.ceil(h / size[0]), 0), ratio or max(math.ceil(w / size[1]), 0)
        for i, j in itertools.product(range(size[0]), range(size[1])):
            dx, dy = (
                (gamma * side * offset[k, a, i, j].item() for a, side in enumerate((w, h)))
                if offset is not None
                else (0, 0)
            )
            for a, b in itertools.product(range(gh), range(gw)):
                y, x = y1 + dy + (i + (a + 0.5) / gh) * h / size[0], x1 + dx + (j + (b + 0.5) / gw) * w / size[1]
                if (found := corners_of(y, x, height, width)) is None:
                    continue
                top, bottom, left, right, v, u = found
                plane, g = image[int(n)], grad[k, :, i, j] / (gh * gw)
                for row, from_row in ((top, 1 - v), (bottom, v)):
                    for column, from_column in ((left, 1 - u), (right, u)):
                        out[k, :, i, j] += plane[:, row, column] * from_row * from_column / (gh * gw)
                        by_image[int(n), :, row, column] += g * from_row * from_column
                p00, p01, p10, p11 = (plane[:, r, c] for r in (top, bottom) for c in (left, right))
                slope_x = p11 * (y - top) + p01 * (bottom - y) + p10 * (top - y) + p00 * (y - bottom)
                slope_y = p11 * (x - left) + p10 * (right - x) + p01 * (left - x) + p00 * (x - right)
                by_offset[k, 0, i, j] += (g * slope_x).sum() * gamma * w
                by_offset[k, 1, i, j] += (g * slope_y).sum() * gamma * h
    return out, by_image, by_offset


ROIS = torch.tensor(
    [
        [0, 1.2, 0.7, 6.3, 5.1],
        [1, 0, 0, 9, 7],
        [0, 3, 3, 3, 3],
        [1, -4, -5, 3, 2.2],
        [0, 30, 30, 40, 40],
        [1, 6, 5, 12, 9],
    ]
)


@pytest.mark.parametrize(('scale', 'ratio'), [(1.0, 0), (1.0, 2), (0.5, 0), (0.5, 3)])
@pytest.mark.parametrize('moved', [False, True])
def test_deformable_pooling(scale, ratio, moved):
    image, size, gamma = draw(2, 3, 8, 10).requires_grad_(), (3, 2), 0.3
    offset = draw(len(ROIS), 2, *size, seed=1).requires_grad_() if moved else None
    ours = ops.deform_roi_pool(image, ROIS, offset, size, scale, ratio, gamma)
    grad = draw(*ours.shape, seed=2)
    reference = plain_pool(image.detach(), ROIS, offset, size, scale, ratio, gamma, grad)
    inputs = (image, offset) if moved else (image,)
    for a, b in zip((ours, *torch.autograd.grad(ours, inputs, grad)), reference, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_deformable_pooling_has_the_slopes_of_its_output():
    image, rois = draw(1, 2, 9, 9).double().requires_grad_(), torch.tensor([[0, 2, 2, 6, 7.0]]).double()
    offset = (draw(1, 2, 2, 2, seed=1) / 4).double().requires_grad_()
    function = lambda x, o: ops.deform_roi_pool(x, rois, o, (2, 2), 1.0, 2, 0.1)  # noqa: E731
    assert torch.autograd.gradcheck(function, (image, offset), eps=1e-5)


def test_deformable_pooling_without_regions_and_in_half_precision():
    image = draw(1, 3, 8, 8).requires_grad_()
    none = ops.deform_roi_pool(image, torch.zeros(0, 5), None, (2, 2), 1.0, 0)
    assert none.shape == (0, 3, 2, 2) and not torch.autograd.grad(none.sum(), image)[0].any()
    rois = torch.tensor([[0, 1, 1, 6, 6.0]])
    for dtype in (torch.float16, torch.bfloat16):
        half = ops.deform_roi_pool(image.to(dtype), rois.to(dtype), None, (2, 2), 1.0, 0)
        assert half.dtype == dtype
        torch.testing.assert_close(
            half.float(), ops.deform_roi_pool(image, rois, None, (2, 2), 1.0, 0), rtol=0.02, atol=0.02
        )


@pytest.mark.parametrize('pack', [ops.DeformRoIPoolPack, ops.ModulatedDeformRoIPoolPack])
def test_the_pools_of_mmdets_dpool_configs_learn(pack):
    torch.manual_seed(0)
    layer = pack(output_size=(3, 3), output_channels=4, deform_fc_channels=8, spatial_scale=1.0)
    features, rois = draw(1, 4, 8, 8), torch.tensor([[0, 1, 1, 6, 6.0], [0, 0, 0, 7, 4]])
    before = layer(features, rois)
    before.sum().backward()
    assert layer.offset_fc[-1].weight.grad.abs().sum() > 0
    share = 0.5 if pack is ops.ModulatedDeformRoIPoolPack else 1  # a fresh mask is a half, a fresh offset zero
    torch.testing.assert_close(before, share * ops.roi_align(features, rois, (3, 3), 1.0, 0, 'avg', True))


def plain_modulated(image, offset, mask, weight, stride, padding):
    """One image; offset and mask are rows of numbers in the order of a map of the output's size."""
    kh, kw = weight.shape[2:]
    height, width = image.shape[1:]
    h, w = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    out = torch.zeros(len(weight), h, w)
    for i, j, a, b in itertools.product(range(h), range(w), range(kh), range(kw)):
        tap = a * kw + b
        y = i * stride - padding + a + offset[((2 * tap) * h + i) * w + j]
        x = j * stride - padding + b + offset[((2 * tap + 1) * h + i) * w + j]
        if -1 < y < height and -1 < x < width:
            top, left = math.floor(y), math.floor(x)
            for row, column in itertools.product((top, top + 1), (left, left + 1)):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * mask[(tap * h + i) * w + j]
                    out[:, i, j] += share * weight[:, :, a, b] @ image[:, row, column]
    return out


@pytest.mark.parametrize(('size', 'stride', 'maps'), [((4, 5), 1, (8, 9)), ((7, 8), 2, (4, 5)), ((4, 4), 1, (4, 4))])
def test_offsets_larger_than_the_output_are_read_in_a_row(size, stride, maps):
    """As mmcv reads them, and as mmdet's DyHead passes them."""
    image, weight = draw(2, 3, *size).requires_grad_(), draw(4, 3, 3, 3, seed=1).requires_grad_()
    both = draw(2, 27, *maps, seed=2)
    offset, mask = both[:, :18].clone().requires_grad_(), both[:, 18:].sigmoid().requires_grad_()
    ours = ops.modulated_deform_conv2d(image, offset, mask, weight, None, stride, 1)
    reference = torch.stack(
        [
            plain_modulated(*row, weight, stride, 1)
            for row in zip(image, offset.flatten(1), mask.flatten(1), strict=True)
        ]
    )
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    inputs, grad = (image, offset, mask, weight), draw(*ours.shape, seed=3)
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(reference, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_offsets_smaller_than_the_output_are_an_error():
    """mmcv would read beyond their end."""
    image, weight = draw(1, 3, 6, 6), draw(4, 3, 3, 3, seed=1)
    with pytest.raises(ValueError, match=r'offset: at least 648 numbers.*18 x 6 x 6.*\(18, 4, 4\)'):
        ops.modulated_deform_conv2d(image, draw(1, 18, 4, 4), draw(1, 9, 6, 6), weight, None, 1, 1)
    with pytest.raises(ValueError, match='mask: at least 324'):
        ops.modulated_deform_conv2d(image, draw(1, 18, 6, 6), draw(1, 9, 5, 6), weight, None, 1, 1)


def test_dyhead_trains():
    from mmdet.models.necks import DyHead

    torch.manual_seed(0)
    neck = DyHead(32, 32, num_blocks=2)
    levels = [draw(1, 32, s, s, seed=s).requires_grad_() for s in (16, 8, 4)]
    out = neck(levels)
    assert [o.shape[-1] for o in out] == [16, 8, 4]
    sum(o.square().sum() for o in out).backward()
    assert all(level.grad.isfinite().all() and level.grad.any() for level in levels)
