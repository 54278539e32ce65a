"""Tables of position embeddings at other grid sizes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

POSITION_MODES = ('bilinear', 'bicubic', 'bicubic_scaled', 'dino')


def resize_positions(positions: Tensor, size: tuple[int, int], mode: str = 'bilinear') -> Tensor:
    """Resize the spatial part of a table of position embeddings.

    Args:
        positions: (1 + S*S, C); row 0 belongs to the class or mean token and is kept.
        size: Wanted grid (h, w).
        mode: ``'bilinear'`` (DenseCLIP), ``'bicubic'`` (MaskCLIP), or ``'dino'``, which samples at the scale
            factors (h + 0.1) / S and (w + 0.1) / S, or ``'bicubic_scaled'`` (SCLIP and its successors), the same but
            that the table is kept as it is for any grid of S*S places, whatever its shape. align_corners is False in
            all.

    Returns:
        (1 + h*w, C), in the dtype of ``positions``.
    """
    side, (h, w) = math.isqrt(len(positions) - 1), size
    traced = isinstance(h, torch.SymInt) or isinstance(w, torch.SymInt)  # sizes that a traced graph leaves open
    if mode in ('bicubic_scaled', 'dino'):
        fits = (h, w) == (side, side) or mode == 'bicubic_scaled' and h * w == side * side
    else:
        fits = not traced and (h, w) == (side, side)  # interpolation to the same size changes nothing
    if fits:
        return positions
    grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    if mode in ('bicubic_scaled', 'dino'):
        grid = F.interpolate(grid, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode='bicubic')
    else:
        grid = F.interpolate(grid, size=size, mode=mode, align_corners=False)
    return torch.cat([positions[:1], grid.to(positions.dtype).flatten(2)[0].T])
