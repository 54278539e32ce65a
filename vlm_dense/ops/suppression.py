"""Non-maximum suppression."""

import numpy as np
import torch
import torchvision

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
    kept = torchvision.ops.nms(boxes, wide(scores)[order].to(boxes.dtype), float(np.float32(iou_threshold)))
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
        min_score: Boxes whose score falls below drop out.
        method: A score is multiplied by 0 (method 0) or 1 - IoU (method 1) from ``iou_threshold`` on, or by
            exp(-IoU^2 / sigma) everywhere (method 2).
        offset: Added to widths and heights, 0 or 1.

    Returns:
        Indices (K,) int64 of the boxes kept, in the order of choice. Of equal scores the one nearest the front is
        chosen, where a box that was chosen makes room for the front one and one that drops out for the last one.
    """
    overlap = _Overlap(boxes, offset)
    threshold, sigma, min_score = np.float32(iou_threshold), np.float32(sigma), np.float32(min_score)
    scores = wide(scores).detach().numpy().copy()
    left = np.arange(len(boxes))
    kept = []
    while len(left):
        at = 0 if np.isnan(scores[left[0]]) else np.nanargmax(scores[left])
        best = left[at]
        kept.append(best)
        left[at] = left[0]
        left = left[1:]
        iou = overlap(best, left)
        if method == 2:
            new = scores[left] * np.exp(-(iou * iou) / sigma)
        else:
            new = scores[left] * np.where(iou >= threshold, 1 - iou if method == 1 else 0, 1).astype(scores.dtype)
        scores[left] = new
        left = _without(left, new < min_score)
    kept = torch.from_numpy(np.array(kept, dtype=np.int64))
    dets[: len(kept)] = torch.cat((boxes[kept], torch.from_numpy(scores)[kept, None].to(boxes.dtype)), 1)
    return kept


def _without(items, gone):
    """``items`` less those ``gone``: the last that stay move, last first, to the places of those gone before them."""
    count = len(items) - gone.sum()
    items = items.copy()
    items[:count][gone[:count]] = items[count:][~gone[count:]][::-1]
    return items[:count]


def nms_match(dets: torch.Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices, in falling order of score: a box that is kept, then those it suppresses.

    Args:
        dets: (N, 5) corners and score.
        iou_threshold: A box goes to the first better one that it overlaps by this much.
    """
    overlap, threshold = _Overlap(dets, 0), np.float32(iou_threshold)
    left = dets[:, 4].argsort(descending=True).numpy()
    groups = []
    while len(left):
        near = overlap(left[0], left) >= threshold
        near[0] = True
        groups.append(left[near].tolist())
        left = left[~near]
    return groups


class _Overlap:
    """IoU of one box with others; NaN where both have no area."""

    def __init__(self, boxes, offset):
        self.offset = offset
        self.x1, self.y1, self.x2, self.y2 = np.ascontiguousarray(wide(boxes).detach().numpy().T[:4])
        self.areas = (self.x2 - self.x1 + offset) * (self.y2 - self.y1 + offset)

    def __call__(self, one, others):
        w = np.minimum(self.x2[others], self.x2[one]) - np.maximum(self.x1[others], self.x1[one]) + self.offset
        h = np.minimum(self.y2[others], self.y2[one]) - np.maximum(self.y1[others], self.y1[one]) + self.offset
        shared = np.maximum(w, 0) * np.maximum(h, 0)
        with np.errstate(invalid='ignore', divide='ignore'):
            return shared / (self.areas[others] + self.areas[one] - shared)
