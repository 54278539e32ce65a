"""Attention by the affinity of features: SC-CLIP takes those of a middle block, ProxyCLIP those of another backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.errors import ConfigError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Renormalise(nn.Module):
    """From a tower's normalisation of images, CLIP's until :meth:`come_from` names another, to a second one.

    Args:
        mean, std: Of the second one, of colours between 0 and 1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        statistics = torch.tensor([CLIP_MEAN, CLIP_STD, tuple(mean), tuple(std)])[:, :, None, None]
        self.register_buffer('statistics', statistics, persistent=False)

    def come_from(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the tower's mean and deviation, of colours between 0 and 1."""
        self.statistics[:2] = torch.tensor([tuple(mean), tuple(std)])[:, :, None, None]

    def colours(self, images: Tensor) -> Tensor:
        """Colours between 0 and 1 of images (..., 3, H, W) in the tower's normalisation."""
        return images * self.statistics[1] + self.statistics[0]

    def forward(self, images: Tensor) -> Tensor:
        """The images (..., 3, H, W) in the other normalisation."""
        return (self.colours(images) - self.statistics[2]) / self.statistics[3]

    def fill_up(self, images: Tensor, multiple: int) -> Tensor:
        """Images (B, 3, H, W) in the tower's normalisation with black at the right and bottom, up to multiples."""
        height, width = images.shape[2:]
        more = 0, -width % multiple, 0, -height % multiple
        black = -self.statistics[0] / self.statistics[1]
        return F.pad(images - black, more) + black if any(more) else images


def colours_of(
    proxy: nn.Module, mean: Sequence[float] | str, std: Sequence[float] | str
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of a second backbone's input: those given, or with ``'own'`` its own.

    Raises:
        ConfigError: ``'own'``, and the backbone has none.
    """
    found = []
    for name, value in dict(mean=mean, std=std).items():
        if value == 'own' and not hasattr(proxy, name):
            raise ConfigError(
                f"{name}='own' stands for what a vlm_dense.ProxyViT knows of its model; a {type(proxy).__name__} says "
                'nothing. Write three numbers.'
            )
        found.append(getattr(proxy, name) if value == 'own' else value)
    return found[0], found[1]


def attention(affinity: Tensor, beta: float, gamma: float, mean: Tensor | None = None) -> Tensor:
    """Softmax of gamma (S - beta mean(S)) over the entries of a row that are not negative; (B, N, N).

    Each image has a mean of its own unless ``mean`` is given. A place always sees itself.
    """
    mean = affinity.mean(dim=(1, 2), keepdim=True) if mean is None else mean
    scores = gamma * (affinity - beta * mean)
    hidden = scores < 0
    hidden.diagonal(dim1=1, dim2=2).fill_(False)
    return scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)


def cosines(tokens: Tensor) -> Tensor:
    """Cosines (B, N, N) of tokens (B, N, C), float32."""
    with torch.autocast(tokens.device.type, enabled=False):
        unit = F.normalize(tokens.float(), dim=-1)
        return unit @ unit.mT
