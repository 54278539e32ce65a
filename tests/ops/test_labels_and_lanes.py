"""Growing labels of text, attention masks and suppression of lanes, against plain loops."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
import torch

from vlm_dense.ops import is_stand_in  # before mmcv.ops

# isort: split
from mmcv import ops

pytestmark = pytest.mark.skipif(not is_stand_in(), reason='mmcv has its compiled kernels')


def grow(labels, queue, steps, joins):
    """One pixel after the other, from a queue."""
    queue = collections.deque(queue)
    while queue:
        y, x = queue.popleft()
        for dy, dx in steps:
            v, u = y + dy, x + dx
            inside = 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]
            if inside and labels[v, u] <= 0 and joins(v, u, labels[y, x]):
                labels[v, u] = labels[y, x]
                queue.append((v, u))


@pytest.mark.parametrize('seed', range(4))
def test_pixels_join_the_nearest_kernel(seed):
    rng = np.random.default_rng(seed)
    shape, count = (14, 17), 5
    labels = np.where(rng.uniform(size=shape) < 0.1, rng.integers(1, count, shape), 0).astype(np.int32)
    score, mask = rng.uniform(size=shape).astype(np.float32), rng.uniform(size=shape) < 0.8
    embedding = rng.standard_normal((*shape, 4)).astype(np.float32)
    contour = (rng.uniform(size=shape) < 0.9).astype(np.uint8)
    ours = ops.pixel_group(score, mask, embedding, labels, contour, count, 2.0)
    grown = labels.copy()
    kernels = [embedding[labels == label].mean(0) if (labels == label).any() else None for label in range(count)]
    start = [(y, x) for y, x in itertools.product(*map(range, shape)) if labels[y, x] > 0 and contour[y, x]]
    near = lambda y, x, label: mask[y, x] and ((kernels[label] - embedding[y, x]) ** 2).sum() < 4  # noqa: E731
    grow(grown, start, [(0, -1), (0, 1), (-1, 0), (1, 0)], near)
    assert (grown > 0).sum() > (labels > 0).sum() and ours[0] == [0, 0]
    for label in range(1, count):
        y, x = np.nonzero(grown == label)
        assert ours[label][0] == pytest.approx(score[y, x].mean() if len(y) else 0, rel=1e-5)
        assert ours[label][1:] == [len(x), *np.stack((x, y), 1).ravel().tolist()]


@pytest.mark.parametrize('kernels', [1, 3])
@pytest.mark.parametrize('least', [0, 3])
def test_contours_expand(kernels, least):
    rng = np.random.default_rng(kernels)
    masks = (rng.uniform(size=(kernels, 13, 16)) < 0.7).astype(np.uint8)
    labels = np.where(rng.uniform(size=masks.shape[1:]) < 0.08, rng.integers(1, 6, masks.shape[1:]), 0).astype(np.int32)
    ours = np.array(ops.contour_expand(masks, labels, least, 6))
    grown = labels.copy()
    for label in range(1, 6):
        if (labels == label).sum() < least:
            grown[labels == label] = 0
    if kernels > 1:
        start = [(y, x) for y, x in itertools.product(range(13), range(16)) if grown[y, x]]
        grow(grown, start, [(-1, 0), (1, 0), (0, -1), (0, 1)], lambda y, x, _: masks[0, y, x])
        assert (grown > 0).sum() > (labels > 0).sum()
    assert (ours == grown).all()


def test_labels_of_nothing():
    nothing = np.zeros((4, 5), np.int32)
    assert ops.contour_expand(np.ones((2, 4, 5), np.uint8), nothing, 0, 1) == nothing.tolist()
    found = ops.pixel_group(
        np.ones((4, 5), np.float32),
        np.ones((4, 5), bool),
        np.ones((4, 5, 2), np.float32),
        nothing,
        np.ones((4, 5), np.uint8),
        3,
        1.0,
    )
    assert found == [[0, 0]] * 3


@pytest.mark.parametrize('kind', [0, 1])
@pytest.mark.parametrize('mask', [(5, 7), (3, 3)])
def test_attention_masks(kind, mask):
    n, h, w = 2, 3, 4
    x = torch.from_numpy(
        np.random.default_rng(0).standard_normal((n, mask[0] * mask[1], h, w), np.float32)
    ).requires_grad_()
    reference = torch.zeros(n, h * w, h, w)
    for b, i, j, a, c in itertools.product(range(n), range(h), range(w), range(mask[0]), range(mask[1])):
        other_i, other_j = i + a - (mask[0] - 1) // 2, j + c - (mask[1] - 1) // 2
        if 0 <= other_i < h and 0 <= other_j < w:
            value = x[b, a * mask[1] + c, i, j]
            if kind == 0:
                reference[b, other_i * w + other_j, i, j] = value
            else:
                reference[b, i * w + j, other_i, other_j] = value
    ours = ops.psa_mask.psa_mask(x, kind, mask)
    assert torch.equal(ours, reference)
    grad = torch.from_numpy(np.random.default_rng(1).standard_normal(ours.shape, np.float32))
    torch.testing.assert_close(torch.autograd.grad(ours, x, grad), torch.autograd.grad(reference, x, grad))


def plain_lanes(lanes, scores, threshold, top_k):
    kept, parents = [], [0] * len(lanes)
    gone = set()
    order = np.argsort(-scores, kind='stable').tolist()
    for rank, i in enumerate(order):
        if i in gone:
            continue
        kept.append(i)
        parents[i] = len(kept)
        for j in order[rank + 1 :]:
            start_i, start_j = (int(lanes[k, 2] * 71 + 0.5) for k in (i, j))
            first = max(start_i, start_j)
            last = min(start_i + int(lanes[i, 4]) - 1, start_j + int(lanes[j, 4]) - 1, 71)
            if (
                last >= first >= 0
                and np.abs(lanes[i, 5 + first : 6 + last] - lanes[j, 5 + first : 6 + last]).mean() < threshold
            ):
                gone.add(j)
                parents[j] = len(kept)
        if len(kept) == top_k:
            break
    return kept, parents


@pytest.mark.parametrize('top_k', [3, 100])
def test_suppression_of_lanes(top_k):
    rng = np.random.default_rng(0)
    lanes = rng.uniform(0, 60, (40, 77)).astype(np.float32)
    lanes[:, 5:] = rng.uniform(0, 700, (40, 1)) + np.linspace(0, 1, 72) * rng.uniform(-90, 90, (40, 1))
    lanes[:, 2] = rng.uniform(0, 0.9, 40)
    lanes[0, 4] = 0
    scores = rng.uniform(size=40).astype(np.float32)
    kept, parents = plain_lanes(lanes, scores, 50.0, top_k)
    ours = ops.line_nms(torch.from_numpy(lanes), torch.from_numpy(scores), 50.0, top_k)
    assert ours[0][: ours[1]].tolist() == kept and not ours[0][ours[1] :].any() and ours[2].tolist() == parents
    assert len(kept) == top_k or 5 < len(kept) < 40
    none = ops.line_nms(torch.zeros(0, 77), torch.zeros(0), 50.0, 5)
    assert none[0].shape == (0,) and none[1] == 0
