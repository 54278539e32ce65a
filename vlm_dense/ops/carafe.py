"""Content-aware reassembly of features (Wang et al., ICCV 2019)."""

import torch
import torch.nn.functional as F

from vlm_dense.ops.precision import leaves, wide

__all__ = ['carafe_forward', 'carafe_backward', 'carafe_naive_forward', 'carafe_naive_backward']


def _reassemble(features, masks, kernel_size, group_size, scale_factor):
    """Every output cell is a weighted sum of the k x k neighbours of its source cell, (N, C, s * H, s * W)."""
    n, c, h, w = features.shape
    near = F.unfold(features, kernel_size, padding=kernel_size // 2).view(n, group_size, c // group_size, -1, h, w)
    masks = masks.view(n, group_size, -1, h, scale_factor, w, scale_factor)
    return torch.einsum('ngckhw,ngkhiwj->ngchiwj', near, masks).reshape(n, c, h * scale_factor, w * scale_factor)


def carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor):
    """Fill ``output``.

    Args:
        features: (N, C, H, W).
        masks: (N, groups * k * k, s * H, s * W).
        output: (N, C, s * H, s * W).
        kernel_size: k, odd.
        group_size: Groups of channels.
        scale_factor: s.
    """
    output.copy_(_reassemble(wide(features), wide(masks), kernel_size, group_size, scale_factor))


def carafe_naive_backward(grad_output, features, masks, grad_input, grad_masks, **sizes):
    """Fill ``grad_input`` and ``grad_masks``."""
    with torch.enable_grad():
        inputs = leaves(features, masks)
        output = _reassemble(*inputs, **sizes)
    grads = torch.autograd.grad(output, inputs, wide(grad_output))
    grad_input.copy_(grads[0])
    grad_masks.copy_(grads[1])


def carafe_forward(features, masks, rfeatures, routput, rmasks, output, **sizes):
    """As :func:`carafe_naive_forward`; ``rfeatures`` keeps the features for the backward pass."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **sizes)


def carafe_backward(
    grad_output,
    rfeatures,
    masks,
    rgrad_output,
    rgrad_input_hs,
    rgrad_input,
    rgrad_masks,
    grad_input,
    grad_masks,
    **sizes,
):
    """As :func:`carafe_naive_backward`."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **sizes)
