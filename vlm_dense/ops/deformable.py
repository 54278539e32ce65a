"""Deformable convolution and attention."""

import torch
import torch.nn.functional as F

from vlm_dense.ops.precision import leaves, wide

__all__ = [
    'deform_conv_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'modulated_deform_conv_forward',
    'modulated_deform_conv_backward',
    'ms_deform_attn_forward',
    'ms_deform_attn_backward',
]


def deform_conv_forward(input, weight, offset, output, columns, ones, im2col_step, **geometry):
    """Deformable convolution (Dai et al., ICCV 2017).

    Args:
        input: (N, C, H, W).
        weight: (O, C / groups, kh, kw).
        offset: (N, 2 * deformable groups * kh * kw, h, w): a row and a column for every tap.
        output: (N, O, h, w), filled.
        columns, ones, im2col_step: Not used.
        geometry: kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group.
    """
    output.copy_(_convolve(input, weight, offset, None, None, _plain(**geometry)))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, im2col_step, **geometry
):
    """Fill ``grad_input`` and ``grad_offset``."""
    grads = _gradients(grad_output, input, weight, offset, None, None, _plain(**geometry))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, scale, im2col_step, **geometry
):
    """Add ``scale`` times the gradient to ``grad_weight``."""
    grads = _gradients(grad_output, input, grad_weight, offset, None, None, _plain(**geometry))
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, with_bias, **geometry):
    """Modulated deformable convolution (Zhu et al., CVPR 2019).

    Args:
        input: (N, C, H, W).
        weight: (O, C / groups, kh, kw).
        bias: (O,) if ``with_bias``.
        offset: (N, 2 * deformable groups * kh * kw, h, w), or a larger map, see :func:`_as_read`.
        mask: (N, deformable groups * kh * kw, h, w), a factor for every tap; may be larger too.
        output: (N, O, h, w), filled.
        ones, columns: Not used.
        with_bias: Whether ``bias`` is added.
        geometry: kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group.

    Raises:
        ValueError: ``offset`` or ``mask`` holds fewer numbers than the output needs.
    """
    offset, mask = _as_read(offset, mask, output, **geometry)
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, _modulated(**geometry)))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    with_bias,
    **geometry,
):
    """Fill the five gradients; ``grad_bias`` only if ``with_bias``."""
    bias = bias if with_bias else None
    offset, mask = _as_read(offset, mask, grad_output, **geometry)
    grads = _gradients(grad_output, input, weight, offset, mask, bias, _modulated(**geometry))
    for filled, grad in zip((grad_input, grad_weight), grads, strict=False):
        filled.copy_(grad)
    for filled, grad in zip((grad_offset, grad_mask), grads[2:], strict=False):
        unread = filled[0].numel() - grad[0].numel()
        filled.copy_(F.pad(grad.flatten(1), (0, unread)).view(filled.shape))
    if with_bias:
        grad_bias.copy_(grads[4])


def _as_read(offset, mask, output, kernel_h, kernel_w, deformable_group, **_):
    """Offset and mask in the size of ``output``, from maps that may be larger.

    mmcv does not compare the sizes: it reads the numbers of an image in a row, as if its map had the size of the
    output, and leaves the rest unread. mmdet's DyHead depends on it, with the offsets of one level on the next.
    """
    size, taps = output.shape[2:], deformable_group * kernel_h * kernel_w
    read = []
    for name, maps, channels in (('offset', offset, 2 * taps), ('mask', mask, taps)):
        count = channels * size.numel()
        if maps.shape[1:].numel() < count:
            raise ValueError(
                f'{name}: at least {count} numbers for each image, {channels} x {size[0]} x {size[1]}, were expected, '
                f'found {tuple(maps.shape[1:])}'
            )
        read.append(maps.flatten(1)[:, :count].view(-1, channels, *size))
    return read


def _plain(kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group):
    return dH, dW, padH, padW, dilationH, dilationW, group, deformable_group


def _modulated(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group):
    return stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group


def _operands(input, weight, offset, mask, bias):
    input, weight = wide(input), wide(weight)
    mask = input.new_zeros(len(input), 0) if mask is None else wide(mask)
    bias = input.new_zeros(len(weight)) if bias is None else wide(bias)
    return input, weight, wide(offset), mask, bias


def _convolve(input, weight, offset, mask, bias, geometry):
    operands = _operands(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*operands, *geometry, mask is not None)


def _gradients(grad, input, weight, offset, mask, bias, geometry):
    """Of input, weight, offset, mask and bias.

    A sample exactly one cell before the first, where a tap without offset in a padding of one lies, is outside in mmcv
    and has no slope; torchvision gives it that of the side towards the map.
    """
    operands = _operands(input, weight, offset, mask, bias)
    grads = torch.ops.torchvision._deform_conv2d_backward(wide(grad), *operands, *geometry, mask is not None)
    grads[2].masked_fill_(_before_first(operands[2], weight.shape[2:], *geometry), 0)
    return grads


def _before_first(offset, kernel, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group):
    """Whether the coordinate that each of ``offset`` moves is -1 or less."""
    at = torch.arange(max(*kernel, *offset.shape[2:]), device=offset.device)
    rows = at[: kernel[0], None] * dilation_h + at[: offset.shape[2]] * stride_h - pad_h  # (kh, h)
    columns = at[: kernel[1], None] * dilation_w + at[: offset.shape[3]] * stride_w - pad_w  # (kw, w)
    moved = offset.view(-1, *kernel, 2, *offset.shape[2:])  # a row and a column for every tap
    rows, columns = moved[:, :, :, 0] + rows[:, None, :, None], moved[:, :, :, 1] + columns[:, None, :]
    return (torch.stack((rows, columns), 3) <= -1).view_as(offset)


def ms_deform_attn_forward(
    value: torch.Tensor,
    spatial_shapes: torch.Tensor,
    level_start_index: torch.Tensor,
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
    im2col_step: int,
) -> torch.Tensor:
    """Multi-scale deformable attention (Zhu et al., ICLR 2021), by mmcv's own function without kernels.

    Args:
        value: (N, sum of H_l * W_l, heads, channels).
        spatial_shapes: (levels, 2) int64, H_l and W_l.
        level_start_index: Not used; follows from ``spatial_shapes``.
        sampling_locations: (N, queries, heads, levels, points, 2), x and y from 0 to 1.
        attention_weights: (N, queries, heads, levels, points).
        im2col_step: Not used.

    Returns:
        (N, queries, heads * channels).
    """
    output = _attend(wide(value), spatial_shapes, wide(sampling_locations), wide(attention_weights))
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value,
    spatial_shapes,
    level_start_index,
    sampling_locations,
    attention_weights,
    grad_output,
    grad_value,
    grad_sampling_loc,
    grad_attn_weight,
    im2col_step,
):
    """Fill the gradients of ``value``, ``sampling_locations`` and ``attention_weights``."""
    with torch.enable_grad():
        value, locations, weights = inputs = leaves(value, sampling_locations, attention_weights)
        output = _attend(value, spatial_shapes, locations, weights)
    grads = torch.autograd.grad(output, inputs, wide(grad_output))
    for filled, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        filled.copy_(grad)


def _attend(value, spatial_shapes, sampling_locations, attention_weights):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, spatial_shapes, sampling_locations, attention_weights)
