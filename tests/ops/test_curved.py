"""Rotated regions, Bézier regions and filters that turn, against plain loops."""

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


def read(image, y, x):
    """Bilinear (C,), the border cells continued by one cell and zero beyond."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right, v, u = min(top + 1, height - 1), min(left + 1, width - 1), y - top, x - left
    upper = image[:, top, left] * (1 - u) + image[:, top, right] * u
    return upper * (1 - v) + (image[:, bottom, left] * (1 - u) + image[:, bottom, right] * u) * v


def same_with_gradients(ours, reference, image):
    grad = draw(*ours.shape, seed=9)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    pair = (torch.autograd.grad(out, image, grad)[0] for out in (ours, reference))
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


ROTATED = torch.tensor(
    [[0, 4, 4, 5, 3, 0.4], [1, 5, 3, 8, 6, -2.0], [0, 0, 0, 6, 4, 1.0], [1, 40, 4, 5, 5, 0], [0, 5, 4, 0.5, 0.4, 0.2]]
)


def plain_rotated(image, rois, size, scale, ratio, aligned, clockwise):
    rows = []
    for n, x, y, w, h, angle in rois.tolist():
        x, y, w, h = (v * scale for v in (x, y, w, h))
        x, y = (x - 0.5, y - 0.5) if aligned else (x, y)
        w, h = (w, h) if aligned else (max(w, 1), max(h, 1))
        cos, sin = math.cos(-angle if clockwise else angle), math.sin(-angle if clockwise else angle)
        gh, gw = ratio or math.ceil(h / size[0]), ratio or math.ceil(w / size[1])
        for i, j in itertools.product(range(size[0]), range(size[1])):
            total = 0
            for a, b in itertools.product(range(gh), range(gw)):
                down, right = (i + (a + 0.5) / gh) * h / size[0] - h / 2, (j + (b + 0.5) / gw) * w / size[1] - w / 2
                total = total + read(image[int(n)], down * cos - right * sin + y, down * sin + right * cos + x)
            rows.append(total / (gh * gw))
    return torch.stack(rows).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ('aligned', 'clockwise', 'ratio', 'scale'),
    [(True, False, 0, 1.0), (True, True, 2, 0.5), (False, True, 0, 0.5), (False, False, 3, 1.0)],
)
def test_rotated_regions(aligned, clockwise, ratio, scale):
    image, how = draw(2, 3, 8, 10).requires_grad_(), ((3, 2), scale, ratio, aligned, clockwise)
    same_with_gradients(ops.roi_align_rotated(image, ROTATED, *how), plain_rotated(image, ROTATED, *how), image)


def test_rotated_regions_of_no_and_of_negative_size():
    image, rois = draw(2, 3, 8, 10), ROTATED.clone()
    rois[0, 3:5] = 0
    assert not ops.roi_align_rotated(image, rois, (3, 2), 1.0, 0, True, False)[0].any()
    assert ops.roi_align_rotated(image, rois[:0], (3, 2), 1.0, 0, True, False).shape == (0, 3, 3, 2)
    rois[1, 3] = -1
    with pytest.raises(ValueError, match='no negative width'):
        ops.roi_align_rotated(image, rois, (3, 2), 1.0, 0, True, False)


def test_a_region_without_rotation_is_roi_align():
    image, boxes = draw(1, 3, 9, 9), torch.tensor([[0, 1, 2, 6, 7.5]])
    rotated = torch.cat(
        (boxes[:, :1], (boxes[:, 1:3] + boxes[:, 3:]) / 2, boxes[:, 3:] - boxes[:, 1:3], torch.zeros(1, 1)), 1
    )
    ours = ops.roi_align_rotated(image, rotated, (3, 3), 1.0, 2, True, False)
    torch.testing.assert_close(ours, ops.roi_align(image, boxes, (3, 3), 1.0, 2, 'avg', True))
    half = ops.roi_align_rotated(image.bfloat16(), rotated.bfloat16(), (3, 3), 1.0, 2, True, False)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), ours, rtol=0.05, atol=0.05)


def curve(points, u):
    return [sum(math.comb(3, k) * u**k * (1 - u) ** (3 - k) * points[k][axis] for k in range(4)) for axis in (0, 1)]


def plain_bezier(image, rois, size, scale, ratio, aligned):
    rows = []
    for n, *numbers in rois.tolist():
        points = [(numbers[2 * i] * scale, numbers[2 * i + 1] * scale) for i in range(8)]
        upper, lower = points[:4], points[:3:-1]
        w, h = (max(abs(upper[0][a] - upper[3][a]), abs(lower[0][a] - lower[3][a])) for a in (0, 1))
        w, h = (w, h) if aligned else (max(w, 1), max(h, 1))
        gh, gw = ratio or math.ceil(h / size[0]), ratio or math.ceil(w / size[1])
        for i, j in itertools.product(range(size[0]), range(size[1])):
            (x0, y0), (x1, y1), v = curve(upper, j / size[1]), curve(lower, j / size[1]), i / size[0]
            x, y = x1 * v + x0 * (1 - v) - 0.5 * aligned, y1 * v + y0 * (1 - v) - 0.5 * aligned
            total = 0
            for a, b in itertools.product(range(gh), range(gw)):
                down, right = ((a + 0.5) / gh - 0.5) * h / size[0], ((b + 0.5) / gw - 0.5) * w / size[1]
                total = total + read(image[int(n)], y + down, x + right)
            rows.append(total / (gh * gw) if gh * gw else image.new_zeros(image.shape[1]))
    return torch.stack(rows).view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize(('aligned', 'ratio', 'scale'), [(True, 0, 1.0), (True, 2, 0.5), (False, 0, 0.5)])
def test_regions_between_curves(aligned, ratio, scale):
    image, how = draw(2, 3, 8, 10).requires_grad_(), ((3, 4), scale, ratio, aligned)
    straight = [1, 1, 3, 0.5, 5, 1.5, 8, 2, 8, 6, 6, 7, 3, 5, 1, 6]
    rois = torch.tensor([[0, *straight], [1, *np.random.default_rng(0).uniform(-2, 12, 16)]], dtype=torch.float32)
    same_with_gradients(ops.bezier_align(image, rois, *how), plain_bezier(image, rois, *how), image)


def test_filters_that_turn():
    """Each weight goes to the place that its index names, in every rotation."""
    outputs, inputs, orientations, k, rotations = 2, 3, 4, 3, 8
    rng, entries = np.random.default_rng(0), orientations * k * k
    places = np.stack([rng.permutation(entries) + 1 for _ in range(rotations)], 1)
    weight = draw(outputs, inputs, orientations, k, k).requires_grad_()
    indices = torch.from_numpy(places.reshape(orientations, k, k, rotations)).int()
    reference = torch.zeros(outputs, rotations, inputs, entries)
    for o, i, e, r in itertools.product(range(outputs), range(inputs), range(entries), range(rotations)):
        reference[o, r, i, places[e, r] - 1] = weight.flatten(2)[o, i, e]
    ours = ops.active_rotated_filter(weight, indices)
    assert torch.equal(ours, reference.view(ours.shape)) and ours.shape == (16, 12, 3, 3)
    grad = draw(*ours.shape, seed=1)
    expected = torch.autograd.grad(reference.view(ours.shape), weight, grad)[0]
    torch.testing.assert_close(torch.autograd.grad(ours, weight, grad)[0], expected)
