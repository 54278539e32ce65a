"""Overlap of boxes."""

import torch

from vlm_dense.ops.precision import wide

__all__ = ['bbox_overlaps']


def bbox_overlaps(bboxes1, bboxes2, ious, mode: int, aligned: bool, offset: int):
    """Fill ``ious`` with the overlap of boxes.

    Args:
        bboxes1: (M, 4) corners x1, y1, x2, y2.
        bboxes2: (N, 4).
        ious: (M, N), or (M,) if ``aligned``.
        mode: 0 divides the intersection by the union, 1 by the area of the box in ``bboxes1``.
        aligned: Pairs of boxes; then M is N.
        offset: Added to widths and heights, 0 or 1.
    """
    first, second = wide(bboxes1), wide(bboxes2)
    if not aligned:
        first = first[:, None]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2]) + offset
    overlap = sides.clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if mode == 0:
        area = area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - overlap
    ious.copy_(overlap / area)
