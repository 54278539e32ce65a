"""Point-wise spatial attention (Zhao et al., ECCV 2018)."""

import torch

__all__ = ['psamask_forward', 'psamask_backward']


def psamask_forward(input, output, psa_type: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int, **_):
    """Fill ``output`` (N, H * W, H, W) with the attention between every two places, 0 where the mask does not reach.

    Args:
        input: (N, h_mask * w_mask, H, W), around every place the attention to its neighbours.
        output: For type 0, collect, (N, other, place); for type 1, distribute, (N, place, other).
        psa_type: 0 or 1.
        h_mask: Rows of the mask.
        w_mask: Columns of the mask.
        half_h_mask: Row of the mask that lies on the place itself.
        half_w_mask: Column of the mask that lies on the place itself.
    """
    of_mask, of_map = _meetings(input.shape[2:], (h_mask, w_mask), (half_h_mask, half_w_mask), psa_type, input.device)
    output.zero_()
    output.view(*output.shape[:2], -1)[:, of_map[0], of_map[1]] = input.flatten(2)[:, of_mask[0], of_mask[1]]


def psamask_backward(grad_output, grad_input, psa_type, h_mask, w_mask, half_h_mask, half_w_mask, **_):
    """Fill ``grad_input`` (N, h_mask * w_mask, H, W)."""
    half = half_h_mask, half_w_mask
    of_mask, of_map = _meetings(grad_input.shape[2:], (h_mask, w_mask), half, psa_type, grad_input.device)
    grad_input.zero_()
    grad_input.view(*grad_input.shape[:2], -1)[:, of_mask[0], of_mask[1]] = grad_output.flatten(2)[
        :, of_map[0], of_map[1]
    ]


def _meetings(size, mask, half, psa_type, device):
    """Indices of the attention of two positions in the masks (tap, position), and in the output."""
    places, taps = [], []
    for side, length, middle in zip(size, mask, half, strict=True):
        tap, place = torch.meshgrid(torch.arange(length), torch.arange(side), indexing='ij')
        other = place + tap - middle
        met = (other >= 0) & (other < side)
        taps.append(tap[met])
        places.append((place[met], other[met]))
    tap = (taps[0][:, None] * mask[1] + taps[1]).flatten()
    place, other = ((a[:, None] * size[1] + b).flatten() for a, b in zip(*places, strict=True))
    pair = (other, place) if psa_type == 0 else (place, other)
    return (tap.to(device), place.to(device)), tuple(index.to(device) for index in pair)
