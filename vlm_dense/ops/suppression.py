"""Non-maximum suppression."""

import torch
import torchvision

__all__ = ['nms', 'softnms', 'nms_match']


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
    """Indices (K,) int64 of the boxes kept, in falling order of score.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: A box that overlaps a better one by more is dropped.
        offset: Added to widths and heights, 0 or 1.
    """
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), 1)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


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
    """Soft non-maximum suppression (Bodla et al., ICCV 2017): overlapped boxes lose score instead of being dropped.

    Args:
        boxes: (N, 4) corners.
        scores: (N,).
        dets: (N, 5), filled with the boxes kept and their new scores.
        iou_threshold: Of methods 0 and 1.
        sigma: Width of method 2.
        min_score: Boxes that fall below are dropped.
        method: 0 drops, 1 multiplies by 1 - IoU above the threshold, 2 by exp(-IoU^2 / sigma).
        offset: Added to widths and heights, 0 or 1.

    Returns:
        Indices (K,) int64 of the boxes kept, in falling order of their scores when chosen.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    scores = scores.clone()
    left = torch.arange(len(boxes), device=boxes.device)
    kept = []
    while len(left):
        at = scores[left].argmax()
        best = left[at]
        dets[len(kept)] = torch.cat((boxes[best], scores[best, None]))
        kept.append(best)
        left[at] = left[0]
        left = left[1:]
        w = (torch.minimum(x2[left], x2[best]) - torch.maximum(x1[left], x1[best]) + offset).clamp(min=0)
        h = (torch.minimum(y2[left], y2[best]) - torch.maximum(y1[left], y1[best]) + offset).clamp(min=0)
        iou = w * h / (areas[left] + areas[best] - w * h)
        if method == 2:
            scores[left] *= torch.exp(-iou * iou / sigma)
        else:
            scores[left] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def nms_match(dets: torch.Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices: a box that is kept, then those that it suppresses, in falling order of score."""
    raise NotImplementedError('nms_match')
