"""Fingerprints of tensors, kept instead of weights that a config gives back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 16  # small enough for the cache of a processor
_WEIGHTS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)


def fingerprint(tensor: Tensor) -> list[float]:
    """Sum, sum of absolute values, root of the sum of squares, and three sums weighted by place.

    Alike wherever the same weights were loaded, resized or not; the last three differ where two values have changed
    places.
    """
    values = tensor.detach().reshape(-1)
    sums = torch.zeros(3 + len(_WEIGHTS), dtype=torch.float64)
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK].double().cpu()
        sums[:3] += torch.stack([part.sum(), part.abs().sum(), part.square().sum()])
        place = torch.arange(start, start + len(part), dtype=torch.int64)
        place ^= place >> 7
        for i, factor in enumerate(_WEIGHTS, 3):
            mixed = (place * factor).bitwise_and_(0xFFFFFFFF)
            mixed.bitwise_xor_(mixed >> 15).mul_(0x2C1B3C6D).bitwise_and_(0xFFFFFFFF)
            sums[i] += torch.dot(part, mixed.double().div_(2**31).sub_(1))
    sums[2].sqrt_()
    return sums.tolist()


def same(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether fingerprints differ by rounding only; those of version 0.1 are the first two numbers."""
    tolerance = 1e-5 * max(a[1], b[1])
    if abs(a[0] - b[0]) > tolerance or abs(a[1] - b[1]) > tolerance:
        return False
    if min(len(a), len(b)) < 6:
        return True
    tolerance = 1e-5 * max(a[2], b[2])
    return all(abs(x - y) <= tolerance for x, y in zip(a[2:], b[2:], strict=True))
