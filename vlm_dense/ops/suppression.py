"""Non-maximum suppression."""

import numpy as np
import torch
from torchvision.ops import nms as nms_above

from vlm_dense.ops.neighbours import Neighbours, touching
from vlm_dense.ops.precision import wide

__all__ = ['nms', 'softnms', 'nms_match']


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
    """Indices (K,) int64 of the boxes that no better box overlaps by more than a threshold, in falling order of score.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: Compared in float32, as mmcv does.
        offset: Added to widths and heights, 0 or 1.
    """
    order = scores.argsort(descending=True)  # mmcv sorts so, and equal scores come in this order
    boxes = wide(boxes)[order]
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), 1)
    kept = nms_above(boxes, wide(scores)[order].to(boxes.dtype), float(np.float32(iou_threshold)))
    return order[kept]


def softnms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    dets: torch.Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> torch.Tensor:
    """Soft non-maximum suppression (Bodla et al., ICCV 2017): overlapped boxes lose score and may drop out by it.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2, on the CPU.
        scores: (N,).
        dets: (N, 5); its first K rows are filled with the boxes kept and their new scores.
        iou_threshold: Of methods 0 and 1.
        sigma: Of method 2.
        min_score: Boxes with a score that falls below drop out.
        method: A score is multiplied by 0 (method 0) or 1 - IoU (method 1) from ``iou_threshold`` on, or by
            exp(-IoU^2 / sigma) everywhere (method 2).
        offset: Added to widths and heights, 0 or 1.

    Returns:
        Indices (K,) int64 of the boxes kept, in the order of choice. Of equal scores the one nearest the front is
        chosen, where a box that was chosen makes room for the front one and one that drops out for the last one.
    """
    scores = wide(scores).detach()
    if method == 0 and offset == 0 and _plain(scores, iou_threshold, min_score):
        kept = _harden(wide(boxes).detach(), scores, *np.float32((iou_threshold, min_score)))
        scores = scores[kept]
    else:
        kept, scores = _soften(
            *_overlaps(boxes, offset, everywhere=method < 2 and iou_threshold <= 0),
            scores.numpy(),
            *np.float32((iou_threshold, sigma, min_score)),
            method,
        )
        kept, scores = torch.from_numpy(kept), torch.from_numpy(scores)
    dets[: len(kept)] = torch.cat((boxes[kept], scores[:, None].to(boxes.dtype)), 1)
    return kept


def _plain(scores: torch.Tensor, threshold: float, min_score: float) -> bool:
    """Whether method 0 is non-maximum suppression: a score of 0 drops out, and no two boxes compete for a place."""
    finite = len(scores) > 0 and bool(scores.isfinite().all())
    return finite and threshold > 0 and min_score > 0 and len(scores.unique()) == len(scores)


def _harden(boxes, scores, threshold, min_score):
    """Boxes in the order of choice, where :func:`_plain` holds; the best one stays whatever its score."""
    left = (scores >= float(min_score)).index_fill(0, scores.argmax(), True).nonzero()[:, 0]
    boxes = boxes[left]
    below = torch.tensor(float(threshold), dtype=boxes.dtype).nextafter(torch.zeros((), dtype=boxes.dtype))
    # torchvision suppresses above its threshold, soft NMS from it on
    return left[nms_above(boxes, scores[left].to(boxes.dtype), below.item())]


def _soften(one, other, iou, scores, threshold, sigma, min_score, method):
    """Boxes in the order of choice, and their scores.

    Boxes that are left lie in the places from ``first`` to ``end``; only neighbours of the chosen one change.
    """
    if method == 2:
        near, factors = iou != 0, np.exp(-(iou * iou) / sigma)
    else:
        near, factors = iou >= threshold, 1 - iou if method == 1 else np.zeros_like(iou)
    neighbours = Neighbours(len(scores), one[near], other[near], factors[near])
    box_at, place_of, left = np.arange(len(scores)), np.arange(len(scores)), scores.copy()
    kept, final, first, end = [], [], 0, len(scores)
    while first < end:
        at = first + left[first:end].argmax()
        if np.isnan(left[at]):
            at = first if np.isnan(left[first]) else first + np.nanargmax(left[first:end])
        best = box_at[at]
        kept.append(best)
        final.append(left[at])
        box_at[at], left[at] = box_at[first], left[first]
        place_of[box_at[at]], place_of[best] = at, -1
        first += 1
        others, change = neighbours[best]
        places = place_of[others]
        still = places >= 0
        changed = places[still]
        left[changed] *= change[still]
        if first == 1:
            changed = np.arange(1, end)  # those too low from the start drop out too
        low = changed[left[changed] < min_score]
        if len(low):
            # The last that stay move, last first, to the places of those gone before them.
            place_of[box_at[low]] = -1
            was, end = end, end - len(low)
            gone = np.zeros(was - end, bool)
            gone[low[low >= end] - end] = True
            to, source = np.sort(low[low < end]), np.flatnonzero(~gone)[::-1] + end
            box_at[to], left[to] = box_at[source], left[source]
            place_of[box_at[to]] = to
    return np.array(kept, np.int64), np.array(final, scores.dtype)


def nms_match(dets: torch.Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices, in falling order of score: a box that is kept, then those it suppresses.

    Args:
        dets: (N, 5) corners and score.
        iou_threshold: A box goes to the first better one that it overlaps by this much.
    """
    order = dets[:, 4].argsort(descending=True)
    one, other, iou = _overlaps(dets[order], 0, everywhere=iou_threshold <= 0)
    near = iou >= np.float32(iou_threshold)
    neighbours = Neighbours(len(dets), one[near], other[near], iou[near])
    left, order = np.ones(len(dets), bool), order.numpy()
    groups = []
    for box in range(len(dets)):
        if left[box]:
            others = neighbours[box][0]
            others = np.sort(others[left[others]])
            left[box] = left[others] = False
            groups.append([order[box].item(), *order[others].tolist()])
    return groups


def _overlaps(boxes, offset, everywhere):
    """Pairs of boxes and their IoU, NaN where both have no area: all that is not 0, or the IoU of every pair."""
    corners = wide(boxes).detach().numpy()[:, :4]
    x1, y1, x2, y2 = np.ascontiguousarray(corners.T)
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    usual = (areas > 0).all() and np.isfinite(areas).all()
    reach = corners + np.array([0, 0, offset, offset], corners.dtype)
    one, other = touching(reach, everywhere or not usual)
    w = np.minimum(x2[one], x2[other]) - np.maximum(x1[one], x1[other]) + offset
    h = np.minimum(y2[one], y2[other]) - np.maximum(y1[one], y1[other]) + offset
    shared = np.maximum(w, 0) * np.maximum(h, 0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return one, other, shared / (areas[one] + areas[other] - shared)
