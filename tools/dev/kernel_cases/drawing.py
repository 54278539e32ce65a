"""Random inputs that are the same on every machine."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def draw(name: str, *shape: int) -> torch.Tensor:
    """Standard normal numbers that depend on the name only."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32))


def draw_boxes(name: str, count: int, size: float = 40) -> torch.Tensor:
    """Corners (count, 4) of boxes up to ``size`` wide in a field of twice that."""
    corners = draw(name, count, 4).abs() * size / 2
    corners[:, 2:] += corners[:, :2]
    return corners
