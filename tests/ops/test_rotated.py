"""Rotated boxes and quadrilaterals against polygons that are clipped side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlm_dense.ops import is_stand_in  # before mmcv.ops

# isort: split
from mmcv import ops

pytestmark = pytest.mark.skipif(not is_stand_in(), reason='mmcv has its compiled kernels')


def corners(box):
    """Of a rotated box, counterclockwise for y upwards."""
    x, y, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    half = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in half]


def area(polygon):
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs) / 2


def clip(polygon, by):
    """The part of a polygon inside a convex one, both counterclockwise (Sutherland and Hodgman)."""
    for (ax, ay), (bx, by_) in zip(by, by[1:] + by[:1], strict=True):

        def side(p, ax=ax, ay=ay, bx=bx, by_=by_):
            return (bx - ax) * (p[1] - ay) - (by_ - ay) * (p[0] - ax)

        kept = []
        for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            s, t = side(p), side(q)
            if s >= 0:
                kept.append(p)
            if (s < 0) != (t < 0):
                kept.append((p[0] + (q[0] - p[0]) * s / (s - t), p[1] + (q[1] - p[1]) * s / (s - t)))
        polygon = kept
    return polygon


def overlap(a, b, mode='iou'):
    shared = area(clip(a, b)) if clip(a, b) else 0.0
    return shared / (area(a) + area(b) - shared if mode == 'iou' else area(a))


def draw_boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate((rng.uniform(0, 30, (count, 2)), rng.uniform(2, 20, (count, 2))), 1)
    return np.concatenate((boxes, rng.uniform(-4, 4, (count, 1))), 1).astype(np.float32)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('clockwise', [True, False])
def test_overlap_of_rotated_boxes(mode, clockwise):
    one, other = draw_boxes(25), draw_boxes(30, seed=1)
    sign = np.array([1, 1, 1, 1, 1 if clockwise else -1])
    reference = torch.tensor(
        [[overlap(corners(a * sign), corners(b * sign), mode) for b in other] for a in one], dtype=torch.float32
    )
    ours = ops.box_iou_rotated(torch.from_numpy(one), torch.from_numpy(other), mode, False, clockwise)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    assert (reference > 0).float().mean() > 0.3 and (reference == 0).any()
    pairs = ops.box_iou_rotated(torch.from_numpy(one), torch.from_numpy(other[:25]), mode, True, clockwise)
    torch.testing.assert_close(pairs, reference[:, :25].diagonal(), rtol=1e-4, atol=1e-5)


def test_overlap_of_special_rotated_boxes():
    box = [5, 5, 4, 2, 0.3]
    others = [
        box,
        [5, 5, 2, 1, 0.3],
        [5, 5, 4, 2, 0.3 + math.pi],
        [50, 5, 4, 2, 0.3],
        [5, 5, 0, 2, 0],
        [5, 5, 2, 4, 0.3],
    ]
    ious = ops.box_iou_rotated(torch.tensor([box]), torch.tensor(others, dtype=torch.float32))[0]
    torch.testing.assert_close(ious, torch.tensor([1, 0.25, 1, 0, 0, 1 / 3]), rtol=1e-3, atol=1e-4)
    assert ops.box_iou_rotated(torch.zeros(0, 5), torch.tensor([box])).shape == (0, 1)
    assert ops.box_iou_rotated(torch.tensor([box]), torch.zeros(0, 5)).shape == (1, 0)


def rectangles(count, seed=0):
    return np.array([np.ravel(corners(box)) for box in draw_boxes(count, seed)], np.float32)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_overlap_of_quadrilaterals(mode):
    one, other = rectangles(20), rectangles(25, seed=1)
    polygons = [[tuple(map(float, p)) for p in q.reshape(4, 2)] for q in (*one, *other)]
    reference = torch.tensor([[overlap(a, b, mode) for b in polygons[20:]] for a in polygons[:20]])
    ours = ops.box_iou_quadri(torch.from_numpy(one), torch.from_numpy(other), mode)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    pairs = ops.box_iou_quadri(torch.from_numpy(one), torch.from_numpy(other[:20]), mode, True)
    torch.testing.assert_close(pairs, reference[:, :20].diagonal(), rtol=1e-4, atol=1e-5)


def plain_nms(polygons, scores, threshold):
    kept = []
    for i in np.argsort(-scores, kind='stable'):
        if all(overlap(polygons[j], polygons[i]) < threshold for j in kept):
            kept.append(int(i))
    return kept


@pytest.mark.parametrize('threshold', [0.1, 0.5])
def test_suppression_of_rotated_boxes_and_quadrilaterals(threshold):
    boxes, scores = draw_boxes(120, seed=2), np.random.default_rng(3).uniform(size=120).astype(np.float32)
    polygons = [corners(box) for box in boxes]
    reference = plain_nms(polygons, scores, threshold)
    dets, kept = ops.nms_rotated(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert kept.tolist() == reference and 5 < len(kept) < 120
    assert torch.equal(dets, torch.from_numpy(np.c_[boxes, scores])[kept])
    quadrilaterals = torch.tensor(np.array(polygons).reshape(-1, 8), dtype=torch.float32)
    assert ops.nms_quadri(quadrilaterals, torch.from_numpy(scores), threshold)[1].tolist() == reference


def test_suppression_with_labels_and_by_class():
    """mmcv's function ignores labels on the CPU, where batched_nms keeps classes apart by place."""
    boxes, labels = torch.tensor([[5, 5, 4, 2, 0.3], [5, 5, 4, 2, 0.3], [50, 5, 4, 2, 0]]), torch.tensor([0, 1, 0])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert ops.nms_rotated(boxes, scores, 0.5, labels)[1].tolist() == [1, 2]
    kept = ops.batched_nms(boxes, scores, labels, dict(type='nms_rotated', iou_threshold=0.5))[1]
    assert kept.tolist() == [1, 2, 0]
    assert ops.nms_rotated(boxes[:0], scores[:0], 0.5)[1] is None
    double = ops.nms_rotated(boxes.double(), scores.double(), 0.5)[1]
    assert double.tolist() == [1, 2]
