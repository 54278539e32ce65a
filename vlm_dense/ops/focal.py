"""Focal losses (Lin et al., ICCV 2017) and their gradients, in closed form."""

import torch

from vlm_dense.ops.precision import wide

__all__ = [
    'sigmoid_focal_loss_forward',
    'sigmoid_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softmax_focal_loss_backward',
]

_TINY = torch.finfo(torch.float32).tiny


def _log(p):
    return p.clamp(min=_TINY).log()


def sigmoid_focal_loss_forward(input, target, weight, output, gamma: float, alpha: float):
    """Fill ``output`` (N, C) with the loss of every class.

    Args:
        input: (N, C) logits.
        target: (N,) int64; C is the background, of no class.
        weight: (C,) a factor for every row by its target, or empty.
        output: (N, C).
        gamma: The focusing exponent.
        alpha: The weight of the target class; the others have 1 - alpha.
    """
    p = wide(input).sigmoid()
    hit = -alpha * (1 - p) ** gamma * _log(p)
    miss = -(1 - alpha) * p**gamma * _log(1 - p)
    output.copy_(_by_target(hit, miss, target, weight))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma: float, alpha: float):
    """Fill ``grad_input`` (N, C) with the derivative of every loss by its logit."""
    p = wide(input).sigmoid()
    hit = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    miss = -(1 - alpha) * p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(_by_target(hit, miss, target, weight))


def _by_target(hit, miss, target, weight):
    is_target = target[:, None] == torch.arange(hit.shape[1], device=target.device)
    chosen = torch.where(is_target, hit, miss)
    return chosen * wide(weight)[target, None] if len(weight) else chosen


def softmax_focal_loss_forward(input, target, weight, output, gamma: float, alpha: float):
    """Fill ``output`` (N,).

    Args:
        input: (N, C) probabilities.
        target: (N,) int64; a row with a negative target has no loss.
        weight: (C,) a factor for every row by its target, or empty.
        output: (N,).
        gamma: The focusing exponent.
        alpha: A factor of all.
    """
    p = _of_target(input, target)
    output.copy_(_weighted(-alpha * (1 - p) ** gamma * _log(p), target, weight))


def softmax_focal_loss_backward(input, target, weight, buff, grad_input, gamma: float, alpha: float):
    """Fill ``grad_input`` (N, C) with the derivative by the logits, ``buff`` (N,) with the part that classes share."""
    p = _of_target(input, target)
    shared = alpha * (gamma * (1 - p) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma)
    buff.copy_(_weighted(shared, target, weight))
    is_target = target[:, None] == torch.arange(input.shape[1], device=target.device)
    grad_input.copy_(wide(buff)[:, None] * (is_target.float() - wide(input)))


def _of_target(probabilities, target):
    return wide(probabilities).gather(1, target.clamp(min=0)[:, None])[:, 0]


def _weighted(values, target, weight):
    if len(weight):
        values = values * wide(weight)[target.clamp(min=0)]
    return values.where(target >= 0, 0)
