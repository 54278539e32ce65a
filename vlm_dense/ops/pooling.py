"""Features of regions of interest."""

import torch

__all__ = ['roi_align_forward', 'roi_align_backward', 'roi_pool_forward', 'roi_pool_backward']

_tv = torch.ops.torchvision


def roi_align_forward(
    input,
    rois,
    output,
    argmax_y,
    argmax_x,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Fill ``output`` (K, C, h, w) with the mean of bilinear samples in the bins of ``rois`` (K, 5)."""
    if pool_mode != 1:
        raise NotImplementedError('roi_align with pool_mode="max"')
    output.copy_(
        _tv.roi_align(input, rois, spatial_scale, aligned_height, aligned_width, max(sampling_ratio, 0), aligned)
    )


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
    """Fill ``grad_input`` (N, C, H, W) from ``grad_output`` (K, C, h, w)."""
    grad_input.copy_(
        _tv._roi_align_backward(
            grad_output,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            max(sampling_ratio, 0),
            aligned,
        )
    )


def roi_pool_forward(input, rois, output, argmax, pooled_height, pooled_width, spatial_scale):
    """Fill ``output`` and ``argmax`` (K, C, h, w) with the maximum in the bins of ``rois`` and where it is."""
    pooled, where = _tv.roi_pool(input, rois, spatial_scale, pooled_height, pooled_width)
    output.copy_(pooled)
    argmax.copy_(where)


def roi_pool_backward(grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale):
    """Fill ``grad_input`` (N, C, H, W) from ``grad_output`` (K, C, h, w)."""
    grad_input.copy_(
        _tv._roi_pool_backward(grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape)
    )
