"""Bilinear samples as the kernels for regions take them, and their means over bins."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vlm_dense.ops.precision import wide


def grids(bins: torch.Tensor, sampling_ratio: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Regions (indices) by their number of samples along the sides of a bin; those without samples are left out.

    Args:
        bins: (K, 2) height and width of a bin, in cells.
        sampling_ratio: Samples along each side; 0: one per cell, rounded up.
    """
    counts = torch.full_like(bins, sampling_ratio).long() if sampling_ratio > 0 else bins.ceil().long()
    for grid in counts[(counts > 0).all(1)].unique(dim=0):
        yield (counts == grid).all(1).nonzero()[:, 0], grid.tolist()


def within(bins: torch.Tensor, size: tuple[int, int], grid: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column (K, h * w, samples) of every sample, from the upper left corner of its region.

    Args:
        bins: (K, 2) height and width of a bin, in cells.
        size: h and w, bins along the sides of a region.
        grid: Samples along the sides of a bin.
    """
    at = [
        ((torch.arange(n * s, device=bins.device, dtype=bins.dtype) + 0.5) / s * side[:, None]).view(-1, n, s)
        for n, s, side in zip(size, grid, bins.unbind(1), strict=True)
    ]
    shape = len(bins), *size, *grid
    rows = at[0][:, :, None, :, None].expand(shape)
    columns = at[1][:, None, :, None, :].expand(shape)
    return rows.flatten(3).flatten(1, 2), columns.flatten(3).flatten(1, 2)


def taps(y: torch.Tensor, x: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The four cells of a bilinear sample at ``y``, ``x``, and their weights; both (..., 4).

    The border cells reach one cell beyond the map; further out all weights are zero. The cells are numbered by row *
    width + column, in the order upper left, upper right, lower left, lower right.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    (top, bottom, v), (left, right, u) = _between(y.where(inside, 0), height), _between(x.where(inside, 0), width)
    cells = torch.stack((top * width + left, top * width + right, bottom * width + left, bottom * width + right), -1)
    weights = torch.stack(((1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u), -1)
    return cells, weights * inside[..., None]


def _between(position, size):
    position = position.clamp(0, size - 1)
    low = position.long()
    return low, (low + 1).clamp(max=size - 1), position - low


def means(features: torch.Tensor, images: torch.Tensor, cells: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Means over bins (K, C, B), with gradients by ``features`` and ``weights``.

    Args:
        features: (N, C, H, W).
        images: (K,) the image of each region.
        cells: (K, B, S, 4), of :func:`taps`.
        weights: (K, B, S, 4).
    """
    k, b, s, _ = cells.shape
    rows = features.permute(0, 2, 3, 1).flatten(0, 2)
    at = cells + images.long().view(-1, 1, 1, 1) * features.shape[2:].numel()
    bags = F.embedding_bag(
        at.view(k * b, s * 4), rows, mode='sum', per_sample_weights=weights.reshape(k * b, s * 4) / s
    )
    return bags.view(k, b, -1).transpose(1, 2)


def pool(features, images, samples, output):
    """Fill ``output`` (K, C, h, w) with the means of bins; 0 for regions without samples.

    Args:
        features: (N, C, H, W).
        images: (K,) the image of each region.
        samples: Regions (indices) and the rows and columns (regions, h * w, samples) of their samples, as often as
            there are numbers of samples.
        output: (K, C, h, w).
    """
    output.zero_()
    for at, y, x in samples:
        pooled = means(wide(features), images[at], *taps(y, x, *features.shape[2:]))
        output[at] = pooled.view(-1, *output.shape[1:]).to(output.dtype)


def spread(grad_output, images, samples, grad_features):
    """Fill ``grad_features`` (N, C, H, W) from ``grad_output`` (K, C, h, w); the backward pass of :func:`pool`."""
    total = wide(torch.zeros_like(grad_features))
    for at, y, x in samples:
        with torch.enable_grad():
            features = total.detach().clone().requires_grad_()  # linear: any features have this gradient
            pooled = means(features, images[at], *taps(y, x, *total.shape[2:]))
        total += torch.autograd.grad(pooled, features, wide(grad_output[at]).flatten(2))[0]
    grad_features.copy_(total)
