"""Attention by the likeness of features: SC-CLIP takes those of a middle block, ProxyCLIP those of another backbone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(likeness: Tensor, beta: float, gamma: float) -> Tensor:
    """Softmax of gamma (S - beta mean(S)) over the entries of a row that are not negative; (B, N, N).

    Each image has a mean of its own. A place always sees itself.
    """
    scores = gamma * (likeness - beta * likeness.mean(dim=(1, 2), keepdim=True))
    hidden = scores < 0
    hidden.diagonal(dim1=1, dim2=2).fill_(False)
    return scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)


def cosines(tokens: Tensor) -> Tensor:
    """Cosines (B, N, N) of tokens (B, N, C), float32."""
    with torch.autocast(tokens.device.type, enabled=False):
        unit = F.normalize(tokens.float(), dim=-1)
        return unit @ unit.mT
