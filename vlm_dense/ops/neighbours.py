"""Candidate pairs of overlapping boxes, without testing every pair."""

import numpy as np


def touching(boxes: np.ndarray, everywhere: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of boxes that share a point, each pair once.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        everywhere: All pairs, for boxes that do not say where they are, inside out or infinite.

    Returns:
        Two arrays (P,) int64 of indices.
    """
    order = np.argsort(boxes[:, 0])
    x1, y1, x2, y2 = boxes[order].T
    first = np.arange(1, len(boxes) + 1)
    end = np.full(len(boxes), len(boxes)) if everywhere else np.searchsorted(x1, x2, 'right')
    counts = np.maximum(end - first, 0)  # those that begin after this one, and before it ends
    one = np.repeat(first - 1, counts)
    other = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
    if not everywhere:
        meet = (y1[other] <= y2[one]) & (y1[one] <= y2[other])
        one, other = one[meet], other[meet]
    return order[one], order[other]


class Neighbours:
    """Of every one of ``count`` boxes the others that it is paired with, and a value of each pair."""

    def __init__(self, count: int, one: np.ndarray, other: np.ndarray, values: np.ndarray):
        self.others = np.concatenate((other, one))
        self.values = np.concatenate((values, values))
        boxes = np.concatenate((one, other))
        order = np.argsort(boxes.astype(np.min_scalar_type(count)), kind='stable')  # few bits: a quick sort by radix
        self.others, self.values = self.others[order], self.values[order]
        self.ends = np.bincount(boxes, minlength=count).cumsum().tolist()

    def __getitem__(self, box: int) -> tuple[np.ndarray, np.ndarray]:
        """Others and values."""
        part = slice(self.ends[box - 1] if box else 0, self.ends[box])
        return self.others[part], self.values[part]
