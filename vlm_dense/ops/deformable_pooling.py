"""Deformable pooling of regions (Dai et al., ICCV 2017; Zhu et al., CVPR 2019)."""

import torch

from vlm_dense.ops.precision import leaves, wide
from vlm_dense.ops.sampling import grids, means, taps, within

__all__ = ['deform_roi_pool_forward', 'deform_roi_pool_backward']


def deform_roi_pool_forward(
    input,
    rois,
    offset,
    output,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
):
    """Fill ``output`` with the means of bins that are each moved by an offset.

    Args:
        input: (N, C, H, W).
        rois: (K, 5), the index of an image and the corners x1, y1, x2, y2.
        offset: (K, 2, h, w), columns and rows, in units of ``gamma`` times the width or height of the region; or empty.
        output: (K, C, h, w); 0 where a region has no samples.
        pooled_height: h.
        pooled_width: w.
        spatial_scale: Cells of the input per unit of the boxes.
        sampling_ratio: Samples along each side of a bin; 0: one per cell, rounded up.
        gamma: Scale of the offsets.
    """
    input = wide(input)
    output.zero_()
    size = pooled_height, pooled_width
    for at, y, x, _ in _samples(rois, offset, size, spatial_scale, sampling_ratio, gamma):
        pooled = means(input, rois[at, 0], *taps(y, x, *input.shape[2:]))
        output[at] = pooled.unflatten(2, size).to(output.dtype)


def deform_roi_pool_backward(
    grad_output,
    input,
    rois,
    offset,
    grad_input,
    grad_offset,
    pooled_height,
    pooled_width,
    spatial_scale,
    sampling_ratio,
    gamma,
):
    """Fill ``grad_input``, and ``grad_offset`` if there are offsets.

    As in mmcv, the slope by an offset is that of the four cells around the sample, also where the sample lies
    beyond the border and its value no longer changes; along the last row and column the two cells are one, and there
    is no slope across it.
    """
    size = pooled_height, pooled_width
    height, width = input.shape[2:]
    features = wide(input)
    grad_input.zero_()
    grad_offset.zero_()
    for at, y, x, reach in _samples(rois, offset, size, spatial_scale, sampling_ratio, gamma):
        cells, weights = taps(y, x, height, width)
        with torch.enable_grad():
            inputs = leaves(features, weights)
            pooled = means(inputs[0], rois[at, 0], cells, inputs[1])
        by_features, by_weights = torch.autograd.grad(pooled, inputs, wide(grad_output[at]).flatten(2))
        grad_input.add_(by_features)
        if offset.numel():
            top, left = cells[..., 0] // width, cells[..., 0] % width
            bottom, right = cells[..., 3] // width, cells[..., 3] % width
            used = by_weights * (weights != 0).any(-1, keepdim=True)
            upper_left, upper_right, lower_left, lower_right = used.unbind(-1)
            by_x = (lower_right - lower_left) * (y - top) + (upper_right - upper_left) * (bottom - y)
            by_y = (lower_right - upper_right) * (x - left) + (lower_left - upper_left) * (right - x)
            slopes = torch.stack((by_x.sum(-1), by_y.sum(-1)), 1) * reach[:, [1, 0], None]
            grad_offset[at] = slopes.view(-1, 2, *size).to(grad_offset.dtype)


def _samples(rois, offset, size, spatial_scale, sampling_ratio, gamma):
    """Regions by number of samples: indices, rows and columns (K, h * w, samples), reach of an offset of one (K, 2)."""
    corners = wide(rois)[:, 1:] * spatial_scale - 0.5
    start, sides = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
    bins = sides / sides.new_tensor(size)
    for at, grid in grids(bins, sampling_ratio):
        reach = gamma * sides[at]
        y, x = (place + start[at, i, None, None] for i, place in enumerate(within(bins[at], size, grid)))
        if offset.numel():
            moved = wide(offset[at]).flatten(2)[..., None]
            y, x = y + moved[:, 1] * reach[:, 0, None, None], x + moved[:, 0] * reach[:, 1, None, None]
        yield at, y, x, reach
