"""Half precision outside, single precision inside."""

import torch


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in float32 if it is float16 or bfloat16, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def leaves(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """:func:`wide` copies that collect gradients."""
    return [wide(tensor).detach().requires_grad_() for tensor in tensors]
