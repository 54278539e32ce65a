"""Suppression of lanes (Zheng et al., CVPR 2022)."""

import torch

from vlm_dense.ops.precision import wide

__all__ = ['line_nms_forward']

_ROWS = 72  # of an image, at which a lane has an x


def line_nms_forward(boxes: torch.Tensor, scores: torch.Tensor, thresh: float, top_k: int) -> list[torch.Tensor]:
    """Lanes that are far enough from every better one.

    The distance of two lanes is the mean over the rows that both cross of the difference of their x.

    Args:
        boxes: (N, 77): two numbers that are not used, the start from 0 (below) to 1, one not used, the length in rows,
            and x at each of 72 rows.
        scores: (N,).
        thresh: Lanes nearer than this are suppressed.
        top_k: At most as many are kept.

    Returns:
        Indices (N,) int64, the kept ones first, in falling order of score, then zeros; their number, int64; for every
        lane the place (N,) int64, from 1, of the last kept one that is near it, 0 for none.
    """
    order = scores.argsort(descending=True)
    lanes = wide(boxes)[order]
    start = (lanes[:, 2] * (_ROWS - 1) + 0.5).long()
    end = start + lanes[:, 4].long() - 1
    kept, near_to = [], torch.zeros_like(order)
    left = torch.ones_like(order, dtype=torch.bool)
    rows = torch.arange(_ROWS, device=boxes.device)
    for i in range(len(lanes)):
        if not left[i]:
            continue
        first, last = torch.maximum(start[i], start[i:]), torch.minimum(end[i], end[i:]).clamp(max=_ROWS - 1)
        both = (rows >= first[:, None]) & (rows <= last[:, None])
        far = ((lanes[i:, 5:] - lanes[i, 5:]).abs() * both).sum(1)
        near = (last >= first) & (first >= 0) & (far < thresh * (last - first + 1))
        near[0] = True
        kept.append(order[i])
        near_to[order[i:][near]] = len(kept)
        left[i:] &= ~near
        if len(kept) == top_k:
            break
    indices = torch.zeros_like(order)
    indices[: len(kept)] = torch.stack(kept) if kept else order[:0]
    return [indices, torch.tensor(len(kept), device=boxes.device), near_to]
