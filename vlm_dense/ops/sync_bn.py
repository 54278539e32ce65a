"""mmcv's own batch normalisation over several processes, ``MMSyncBN``: what one process adds to it.

Figures of channels are float32. mmcv averages over the processes between these steps.
"""

import torch

__all__ = [
    'sync_bn_forward_mean',
    'sync_bn_forward_var',
    'sync_bn_forward_output',
    'sync_bn_backward_param',
    'sync_bn_backward_data',
]


def sync_bn_forward_mean(input: torch.Tensor, mean: torch.Tensor) -> None:
    """Fill ``mean`` (C,) with that of each channel of ``input`` (N, C, L)."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> None:
    """Fill ``var`` (C,) with the mean squared distance of ``input`` (N, C, L) from ``mean`` (C,)."""
    var.copy_((input.float() - mean[:, None]).square_().mean((0, 2)))


def sync_bn_forward_output(
    input, mean, var, weight, bias, running_mean, running_var, norm, std, output, eps, momentum, group_size
):
    """Normalise, and move the running figures, their variance without bias.

    Args:
        input: (N, C, L), float16 or float32.
        mean, var: (C,), of all processes.
        weight, bias: (C,), or None both.
        running_mean, running_var: (C,), changed in place, or None both.
        norm: (N, C, L) float32, filled with the input less its mean, over its deviation.
        std: (C,), filled with that deviation.
        output: (N, C, L), filled with ``norm * weight + bias``.
        eps: Added to the variance.
        momentum: The share of the new figures in the running ones; a number or a tensor of one.
        group_size: Number of processes, each taken to have as many values as this one.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * (count / (count - 1)) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


def sync_bn_backward_param(grad_output, norm, grad_weight, grad_bias):
    """Fill the gradients (C,) of weight and bias with what this process adds, from (N, C, L)."""
    grad_output = grad_output.float()
    grad_weight.copy_((grad_output * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.sum((0, 2)))


def sync_bn_backward_data(grad_output, weight, grad_weight, grad_bias, norm, std, grad_input):
    """Fill ``grad_input`` (N, C, L); gradients of weight and bias are means over the processes."""
    count = norm.shape[0] * norm.shape[2]
    shared = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (grad_output.float() - shared))
