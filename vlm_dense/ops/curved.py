"""Features of rotated regions, of regions between Bézier curves, and of filters that turn."""

import torch

from vlm_dense.ops.precision import wide
from vlm_dense.ops.sampling import grids, pool, spread, within

__all__ = [
    'roi_align_rotated_forward',
    'roi_align_rotated_backward',
    'bezier_align_forward',
    'bezier_align_backward',
    'active_rotated_filter_forward',
    'active_rotated_filter_backward',
]


def roi_align_rotated_forward(
    input,
    rois,
    output,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
):
    """Fill ``output`` with the means of bilinear samples in the bins of rotated regions.

    Args:
        input: (N, C, H, W).
        rois: (K, 6), the index of an image, centre x, centre y, width, height, angle in radians.
        output: (K, C, h, w).
        pooled_height: h.
        pooled_width: w.
        spatial_scale: Cells of the input per unit of the boxes.
        sampling_ratio: Samples along each side of a bin; 0: one per cell, rounded up.
        aligned: Move centres by half a cell, and let regions be smaller than one cell.
        clockwise: The sense of the angle.

    Raises:
        ValueError: ``aligned``, and a width or height is negative.
    """
    samples = _rotated(rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned, clockwise)
    pool(input, rois[:, 0], samples, output)


def roi_align_rotated_backward(
    grad_output,
    rois,
    grad_input,
    pooled_height,
    pooled_width,
    spatial_scale,
    sampling_ratio,
    aligned,
    clockwise,
):
    """Fill ``grad_input`` (N, C, H, W)."""
    samples = _rotated(rois, (pooled_height, pooled_width), spatial_scale, sampling_ratio, aligned, clockwise)
    spread(grad_output, rois[:, 0], samples, grad_input)


def _rotated(rois, size, spatial_scale, sampling_ratio, aligned, clockwise):
    rois = wide(rois)
    centre, sides = rois[:, [2, 1]] * spatial_scale - (0.5 if aligned else 0), rois[:, [4, 3]] * spatial_scale
    if not aligned:
        sides = sides.clamp(min=1)
    elif (sides < 0).any():
        raise ValueError('regions of no negative width or height were expected')
    angle = (-rois[:, 5] if clockwise else rois[:, 5])[:, None, None]
    bins = sides / sides.new_tensor(size)
    for at, grid in grids(bins, sampling_ratio):
        down, right = (place - sides[at, i, None, None] / 2 for i, place in enumerate(within(bins[at], size, grid)))
        cos, sin = angle[at].cos(), angle[at].sin()
        y, x = down * cos - right * sin, down * sin + right * cos
        yield at, y + centre[at, 0, None, None], x + centre[at, 1, None, None]


def bezier_align_forward(
    input,
    rois,
    output,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
):
    """Fill ``output`` with the means of bins between two cubic Bézier curves (Liu et al., CVPR 2020).

    Args:
        input: (N, C, H, W).
        rois: (K, 17), the index of an image, then x and y of the four control points of the upper curve from left to
            right, and of those of the lower curve from right to left.
        output: (K, C, h, w).
        aligned_height: h.
        aligned_width: w.
        spatial_scale: Cells of the input per unit of the points.
        sampling_ratio: Samples along each side of a bin; 0: one per cell, rounded up.
        aligned: Move points by half a cell, and let regions be smaller than one cell.
    """
    samples = _between_curves(rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    pool(input, rois[:, 0], samples, output)


def bezier_align_backward(
    grad_output, rois, grad_input, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned
):
    """Fill ``grad_input`` (N, C, H, W)."""
    samples = _between_curves(rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    spread(grad_output, rois[:, 0], samples, grad_input)


def _between_curves(rois, size, spatial_scale, sampling_ratio, aligned):
    """A bin of the usual size lies around each point of a grid; its rows go from curve to curve.

    The grid begins on the upper curve and at the left ends, and stops one step before the others, as in mmcv.
    """
    points = wide(rois)[:, 1:].view(-1, 8, 2) * spatial_scale
    upper, lower = points[:, :4], points[:, 4:].flip(1)
    sides = torch.maximum((upper[:, 0] - upper[:, 3]).abs(), (lower[:, 0] - lower[:, 3]).abs()).flip(1)
    bins = (sides if aligned else sides.clamp(min=1)) / sides.new_tensor(size)
    u = torch.arange(size[1], device=points.device, dtype=points.dtype) / size[1]
    v = (torch.arange(size[0], device=points.device, dtype=points.dtype) / size[0])[:, None, None]
    share = torch.stack(((1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3), 1)  # (w, 4)
    centre = (share @ lower)[:, None] * v + (share @ upper)[:, None] * (1 - v) - (0.5 if aligned else 0)  # (K, h, w, 2)
    for at, grid in grids(bins, sampling_ratio):
        inside = within(bins[at], (1, 1), grid)  # of one bin
        y, x = (
            centre[at, ..., i].flatten(1)[..., None] + place - bins[at, 1 - i, None, None] / 2
            for i, place in ((1, inside[0]), (0, inside[1]))
        )
        yield at, y, x


def active_rotated_filter_forward(input, indices, output):
    """Fill ``output`` with filters in several rotations (Zhou et al., CVPR 2017).

    Args:
        input: (O, I, orientations, kh, kw).
        indices: (orientations, kh, kw, R), from 1: the place that each weight has in each of R rotations.
        output: (O * R, I * orientations, kh, kw).
    """
    places = _places(indices, len(input), input.shape[1])
    turned = input.flatten(2)[:, None].expand(places.shape)
    output.copy_(torch.zeros_like(turned).contiguous().scatter_(3, places, turned).view(output.shape))


def active_rotated_filter_backward(grad_out, indices, grad_in):
    """Fill ``grad_in`` (O, I, orientations, kh, kw)."""
    places = _places(indices, len(grad_in), grad_in.shape[1])
    grad_in.copy_(wide(grad_out).reshape(places.shape).gather(3, places).sum(1).view(grad_in.shape))


def _places(indices, outputs, inputs):
    """(O, R, I, orientations * kh * kw)."""
    places = indices.flatten(0, 2).T.long() - 1
    return places[None, :, None].expand(outputs, -1, inputs, -1)
