"""Features of regions of interest.

A region is a row of ``rois`` (K, 5): the index of its image and the corners x1, y1, x2, y2.
"""

import torch
from torchvision import _meta_registrations, extension  # noqa: F401  registers torch.ops.torchvision

from vlm_dense.ops.precision import wide
from vlm_dense.ops.sampling import grids

__all__ = ['roi_align_forward', 'roi_align_backward', 'roi_pool_forward', 'roi_pool_backward']


def roi_align_forward(
    input,
    rois,
    output,
    argmax_y,
    argmax_x,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
):
    """Region features by bilinear samples (He et al., ICCV 2017).

    Args:
        input: (N, C, H, W).
        rois: (K, 5).
        output: (K, C, h, w), filled.
        argmax_y, argmax_x: Of pool mode 0: (K, C, h, w), filled with the place of the largest sample, -1 for none.
        aligned_height: h.
        aligned_width: w.
        spatial_scale: Cells of the input per unit of the boxes.
        sampling_ratio: Samples along each side of a bin; 0: one per cell, rounded up.
        pool_mode: The largest (0) or the mean (1) of the samples in a bin.
        aligned: Move boxes by half a cell, and let them be smaller than one cell.
    """
    input, rois = wide(input), wide(rois)
    size = aligned_height, aligned_width
    if pool_mode == 1:
        output.copy_(torch.ops.torchvision.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned))
        return
    output.fill_(-10000)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)
    start, sides = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
    if not aligned:
        sides = sides.clamp(min=1)
    bins = sides / rois.new_tensor(size)
    at_bin = torch.arange(max(size), device=rois.device)[:, None]
    for group, grid in grids(bins, sampling_ratio):
        step = bins / bins.new_tensor(grid)
        first = start[:, None] + at_bin * bins[:, None] + step[:, None] / 2  # of the first sample in every bin
        fine = [n * s for n, s in zip(size, grid, strict=True)]
        for at in group.split(_few(output)):
            samples = torch.ops.torchvision.roi_align(input, rois[at], spatial_scale, *fine, 1, aligned)
            largest, index = _largest(samples, *grid)
            row = (index / grid[1]).floor_()
            y = first[at, None, : size[0], None, 0] + row * step[at, None, None, None, 0]
            x = first[at, None, None, : size[1], 1] + (index - row * grid[1]) * step[at, None, None, None, 1]
            for filled, found in ((output, largest), (argmax_y, y), (argmax_x, x)):
                filled.index_copy_(0, at, found.to(filled.dtype))


def _few(regions):
    """Number of regions (K, C, h, w) at a time: as many as a processor's cache holds."""
    return max(1, 2**17 // max(regions[:1].numel(), 1))


def _largest(samples, rows, columns):
    """Of every ``rows`` x ``columns`` samples the largest and its index, as a float; the first of equal ones."""
    samples = samples.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    samples = samples.permute(3, 5, 0, 1, 2, 4).contiguous().flatten(0, 1)
    largest, index = samples[0], torch.zeros_like(samples[0])
    for i, sample in enumerate(samples[1:], start=1):
        index.masked_fill_(sample > largest, i)
        largest = torch.maximum(largest, sample)
    return largest, index


def roi_align_backward(
    grad_output,
    rois,
    argmax_y,
    argmax_x,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Fill ``grad_input`` (N, C, H, W)."""
    if pool_mode == 1:
        grad = torch.ops.torchvision._roi_align_backward(
            wide(grad_output),
            wide(rois),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    else:
        grad = wide(grad_input.new_zeros(grad_input.numel()))
        parts = wide(grad_output), rois[:, 0].long(), wide(argmax_y), wide(argmax_x)
        for some in zip(*(part.split(_few(grad_output)) for part in parts), strict=True):
            _spread(*some, grad, grad_input.shape)
        grad = grad.view(grad_input.shape)
    grad_input.copy_(grad)


def _spread(grad_output, images, y, x, grad, shape):
    """Add each of ``grad_output`` (K, C, h, w) to the four cells that its bilinear sample at y, x was made from."""
    channels, height, width = shape[1:]
    used = (y != -1) & (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = (place.where(used, 0).clamp(0, side - 1) for place, side in ((y, height), (x, width)))
    top, left = y.long(), x.long()
    planes = images[:, None] * channels + torch.arange(channels, device=images.device)
    upper = planes[:, :, None, None] * (height * width) + top * width + left
    grad_output = grad_output * used
    below = grad_output * (y - top)
    for cells, part in ((upper, grad_output - below), (upper + width * (top < height - 1), below)):
        right = part * (x - left)
        grad.scatter_add_(0, cells.flatten(), (part - right).flatten())
        grad.scatter_add_(0, (cells + (left < width - 1)).flatten(), right.flatten())


def roi_pool_forward(input, rois, output, argmax, pooled_height: int, pooled_width: int, spatial_scale: float):
    """Region features by the largest value in each bin (Girshick, ICCV 2015).

    As in mmcv, boxes end one unit after their second corner and are not rounded to whole cells; torchvision's
    ``roi_pool`` rounds them.

    Args:
        input: (N, C, H, W).
        rois: (K, 5).
        output: (K, C, h, w), filled; 0 for a bin without cells.
        argmax: (K, C, h, w) int32, filled with row * W + column of that value, -1 for a bin without cells.
        pooled_height: h.
        pooled_width: w.
        spatial_scale: Cells of the input per unit of the boxes.
    """
    width = input.shape[3]
    images = rois[:, 0].tolist()
    tops = _bins(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, input.shape[2])
    lefts = _bins(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)
    output.zero_()
    argmax.fill_(-1)
    for k, (image, rows, columns) in enumerate(zip(images, tops, lefts, strict=True)):
        for j, (left, right) in enumerate(columns):
            for i, (top, bottom) in enumerate(rows):
                if bottom > top and right > left:
                    values, where = input[int(image), :, top:bottom, left:right].flatten(1).max(1)
                    output[k, :, i, j] = values
                    argmax[k, :, i, j] = (top + where // (right - left)) * width + left + where % (right - left)


def _bins(low, high, scale, count, size):
    """First cell and end of ``count`` bins along one side of every box; empty where the box has no extent."""
    low, high = wide(low) * scale, (wide(high) + 1) * scale
    edges = torch.arange(count + 1, device=low.device) * ((high - low) / count)[:, None]
    first = (edges[:, :-1] + low[:, None]).floor().clamp(0, size)
    end = (edges[:, 1:] + low[:, None]).ceil().clamp(0, size)
    end = end.where((high > low)[:, None], first)
    return torch.stack((first, end), 2).long().tolist()


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    """Add ``grad_output`` (K, C, h, w) to the cells of ``grad_input`` (N, C, H, W) that were the largest."""
    used = argmax >= 0
    planes = rois[:, 0].long()[:, None] * grad_input.shape[1] + torch.arange(grad_input.shape[1], device=rois.device)
    at = planes[:, :, None, None] * grad_input[0, 0].numel() + argmax
    grad_input.view(-1).index_add_(0, at[used], grad_output[used])
