"""Overlap and suppression of rotated boxes and of quadrilaterals.

A rotated box is (centre x, centre y, width, height, angle in radians), a quadrilateral x and y of four corners.
"""

import torch

from vlm_dense.ops.neighbours import touching
from vlm_dense.ops.precision import wide

__all__ = ['box_iou_rotated', 'box_iou_quadri', 'nms_rotated', 'nms_quadri']

_TOGETHER = 1 << 14  # pairs


def box_iou_rotated(boxes1, boxes2, ious, mode_flag: int, aligned: bool):
    """Fill ``ious`` with the overlap of rotated boxes.

    Args:
        boxes1: (M, 5).
        boxes2: (N, 5).
        ious: (M * N,), or (M,) if ``aligned``.
        mode_flag: 0 divides the intersection by the union, 1 by the area of the box in ``boxes1``.
        aligned: Pairs of boxes; then M is N.
    """
    _fill(_corners(boxes1), _corners(boxes2), ious, mode_flag, aligned)


def box_iou_quadri(boxes1, boxes2, ious, mode_flag: int, aligned: bool):
    """As :func:`box_iou_rotated`, of quadrilaterals (M, 8) and (N, 8).

    mmcv counts a corner as inside when it is so along the two sides of the other that meet in its first corner. That
    is exact for rectangles, and for others it is kept as it is.
    """
    _fill(_quadrilaterals(boxes1), _quadrilaterals(boxes2), ious, mode_flag, aligned)


def nms_rotated(
    dets: torch.Tensor,
    scores: torch.Tensor,
    order: torch.Tensor,
    dets_sorted: torch.Tensor,
    labels: torch.Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> torch.Tensor:
    """Indices (K,) int64 of the rotated boxes that no better one overlaps, in falling order of score.

    As in mmcv, an overlap that is the threshold itself suppresses on the CPU and not on GPUs, and labels keep boxes
    apart on GPUs only.

    Args:
        dets: (N, 5), or (N, 6) with labels.
        scores: (N,).
        order: (N,) int64, indices by falling score.
        dets_sorted, labels: Not used.
        iou_threshold: Compared in float32.
        multi_label: Whether there are labels.
    """
    return _suppress(_corners(dets[:, :5]), dets[:, 5] if multi_label else None, order, iou_threshold)


def nms_quadri(dets, scores, order, dets_sorted, iou_threshold: float, multi_label: bool) -> torch.Tensor:
    """As :func:`nms_rotated`, of quadrilaterals (N, 8), or (N, 9) with labels."""
    return _suppress(_quadrilaterals(dets[:, :8]), dets[:, 8] if multi_label else None, order, iou_threshold)


def _corners(boxes):
    """Of rotated boxes: corners (N, 4, 2) relative to the centre, centres (N, 2), areas (N,)."""
    boxes = wide(boxes).detach()
    centre, size, angle = boxes[:, :2], boxes[:, 2:4], boxes[:, 4].double()
    cos, sin = angle.cos().to(boxes.dtype) * 0.5, angle.sin().to(boxes.dtype) * 0.5
    w, h = size.unbind(1)
    first = torch.stack((-sin * h - cos * w, cos * h - sin * w), 1)
    second = torch.stack((sin * h - cos * w, -cos * h - sin * w), 1)
    return torch.stack((first, second, -first, -second), 1), centre, w * h


def _quadrilaterals(boxes):
    """Of quadrilaterals: corners (N, 4, 2) relative to their mean, means (N, 2), areas (N,)."""
    corners = wide(boxes).detach().view(-1, 4, 2)
    centre = corners.mean(1)
    corners = corners - centre[:, None]
    first, second, third = (corners[:, i] - corners[:, 0] for i in (1, 2, 3))
    return corners, centre, (_cross(first, second).abs() + _cross(second, third).abs()) / 2


def _cross(a, b):
    return a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1]


def _fill(boxes1, boxes2, ious, mode, aligned):
    count = len(boxes2[2])
    one = torch.arange(len(ious), device=ious.device)
    one, other = (one, one) if aligned else (one // max(count, 1), one % max(count, 1))
    near = _near(boxes1, boxes2, one, other)
    ious.zero_()
    ious[near] = _overlap(boxes1, boxes2, one[near], other[near], mode).to(ious.dtype)


def _near(boxes1, boxes2, one, other):
    """Pairs with circumscribed boxes that touch, by their indices in ``one``."""
    (low1, high1), (low2, high2) = _extent(boxes1), _extent(boxes2)
    apart = (low1[one] > high2[other]).any(1) | (low2[other] > high1[one]).any(1)
    return (~apart).nonzero()[:, 0]


def _extent(boxes):
    """Least and largest x and y, a little further out than the corners, for rounding."""
    corners, centre, _ = boxes
    margin = 1e-3 * (1 + corners.abs().amax(1) + centre.abs())
    return corners.amin(1) + centre - margin, corners.amax(1) + centre + margin


def _overlap(boxes1, boxes2, one, other, mode):
    """Overlap of pairs, 0 where an area is next to nothing."""
    found = [
        _overlap_of_some(boxes1, boxes2, *pair, mode)
        for pair in zip(one.split(_TOGETHER), other.split(_TOGETHER), strict=True)
    ]
    return torch.cat(found) if found else boxes1[2][:0]


def _overlap_of_some(boxes1, boxes2, one, other, mode):
    (corners1, centre1, area1), (corners2, centre2, area2) = (
        [part[at] for part in boxes] for boxes, at in ((boxes1, one), (boxes2, other))
    )
    apart = (centre1 - centre2) / 2
    shared = _shared_area(corners1 + apart[:, None], corners2 - apart[:, None])
    whole = area1 + area2 - shared if mode == 0 else area1
    return (shared / whole).where((area1 >= 1e-14) & (area2 >= 1e-14), 0)


def _shared_area(corners1, corners2):
    """Area (P,) that convex quadrilaterals (P, 4, 2) share: the hull of where sides cross and of corners inside."""
    side1, side2 = corners1.roll(-1, 1) - corners1, corners2.roll(-1, 1) - corners2
    turn = _cross(side2[:, None], side1[:, :, None])
    between = corners2[:, None] - corners1[:, :, None]
    along1, along2 = _cross(side2[:, None], between) / turn, _cross(side1[:, :, None], between) / turn
    crossing = (turn.abs() > 1e-14) & (along1 >= 0) & (along1 <= 1) & (along2 >= 0) & (along2 <= 1)
    points = corners1[:, :, None] + side1[:, :, None] * along1[..., None]
    points = torch.cat((points.flatten(1, 2), corners1, corners2), 1)
    there = torch.cat((crossing.flatten(1), _inside(corners1, corners2, side2), _inside(corners2, corners1, side1)), 1)
    return _hull_area(points.where(there[..., None], 0), there)


def _inside(points, corners, sides):
    """Whether points (P, 4, 2) lie within two sides that meet in the first corner, when projected on them."""
    within = True
    for side in (sides[:, :1], -sides[:, 3:]):
        along = ((points - corners[:, :1]) * side).sum(-1)
        within = (along >= 0) & (along <= side.square().sum(-1)) & within
    return within


def _hull_area(points, there):
    """Area (P,) of the convex hull of those of the points (P, 24, 2) that are there.

    The points are put in order around their mean. A reflex corner of that star is no corner of the hull, so they go
    until none is left.
    """
    count = there.sum(1)
    points = points - (points.sum(1) / count.clamp(min=1)[:, None])[:, None]
    angle = torch.atan2(points[..., 1], points[..., 0]).masked_fill(~there, torch.inf)
    while True:
        angle, order = angle.sort(1)
        points = points.gather(1, order[..., None].expand_as(points))
        there = angle < torch.inf
        points = points.where(there[..., None], points[:, :1])  # the rest repeats the first
        following = points.roll(-1, 1)
        reflex = there & (_cross(points - points.gather(1, _before(there)), following - points) < 0)
        if not (reflex & (there.sum(1, keepdim=True) > 3)).any():
            return _cross(points, following).sum(1).abs() / 2
        angle = angle.masked_fill(reflex, torch.inf)


def _before(there):
    """Index (P, 24, 2) of the point before each; before the first comes the last that is there."""
    at = torch.arange(there.shape[1], device=there.device).expand_as(there) - 1
    last = there.sum(1, keepdim=True).clamp(min=1) - 1
    return at.where(at >= 0, last)[..., None].expand(-1, -1, 2)


def _suppress(boxes, labels, order, threshold):
    on_gpu = order.is_cuda
    boxes = [part[order] for part in boxes]
    low, high = _extent(boxes)
    usual = bool((low < high).all() & low.isfinite().all() & high.isfinite().all())
    one, other = touching(torch.cat((low, high), 1).cpu().numpy(), everywhere=not usual or threshold <= 0)
    one, other = (torch.from_numpy(pair).to(order.device) for pair in (one, other))
    if on_gpu and labels is not None:
        labels = labels[order]
        one, other = one[labels[one] == labels[other]], other[labels[one] == labels[other]]
    iou = _overlap(boxes, boxes, one, other, 0)
    limit = torch.tensor(threshold, dtype=torch.float32).to(iou)
    near = iou > limit if on_gpu else iou >= limit
    one, other = torch.minimum(one, other)[near].cpu(), torch.maximum(one, other)[near].cpu()
    better = one.argsort(stable=True)
    kept = torch.ones(len(order), dtype=torch.bool)
    for start, group in zip(*_runs(one[better]), strict=True):
        if kept[start]:
            kept[other[better[group]]] = False
    return order[kept.to(order.device)]


def _runs(values):
    """Different values of a rising sequence, and the slice of each."""
    found, counts = values.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0).tolist()
    return found.tolist(), [slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True)]
