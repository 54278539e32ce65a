"""Fingerprints of tensors, kept instead of weights that a config gives back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 20
_WEIGHTS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)


def fingerprint(tensor: Tensor) -> list[float]:
    """Sum, sum of absolute values, root of the sum of squares, and three sums weighted by place.

    Alike wherever the same weights were loaded, resized or not; the last three differ where two values have changed
    places.
    """
    values = tensor.detach().reshape(-1).double().cpu()
    sums = [values.sum().item(), values.abs().sum().item(), values.norm().item()]
    for factor in _WEIGHTS:
        total = 0.0
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            place = torch.arange(start, start + len(part), dtype=torch.int64)
            mixed = ((place ^ (place >> 7)) * factor) & 0xFFFFFFFF
            mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
            total += torch.dot(part, mixed.double() / 2**31 - 1).item()
        sums.append(total)
    return sums


def same(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether fingerprints differ by rounding only; those of version 0.1 are the first two numbers."""
    tolerance = 1e-5 * max(a[1], b[1])
    if abs(a[0] - b[0]) > tolerance or abs(a[1] - b[1]) > tolerance:
        return False
    if min(len(a), len(b)) < 6:
        return True
    tolerance = 1e-5 * max(a[2], b[2])
    return all(abs(x - y) <= tolerance for x, y in zip(a[2:], b[2:], strict=True))
