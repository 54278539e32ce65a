"""By how much the inputs of tests decide labels and choices: with near ties a test follows the processor's rounding."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1e-4
"""Least margin of scores around 1, a hundred times what rounding in float32 makes of them."""


def margin(scores: Tensor, *thresholds: float, dim: int = 0) -> float:
    """The least distance of the best score along ``dim`` to the second and to any of ``thresholds``."""
    best, second = scores.topk(2, dim=dim).values.unbind(dim)
    return torch.stack([(best - second).min(), *((best - t).abs().min() for t in thresholds)]).min().item()
