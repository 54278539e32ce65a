"""ProxyCLIP: CLIP's last values mixed by the attention of another backbone.

CLIP classifies by names, and a self-supervised model such as DINO groups patches of one object. ProxyCLIP keeps the
values of CLIP's last layer and mixes them by an attention that the features of the second model give, on its finer
grid. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.affinity import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Renormalise,
    attention,
    colours_of,
    cosines,
)
from vlm_dense.registry import MODELS

PAPER = dict(
    name='ProxyCLIP',
    title='ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation',
    venue='ECCV 2024',
    link='https://arxiv.org/abs/2408.04883',
    code='https://github.com/mc-lan/ProxyCLIP',
    licence='NTU S-Lab 1.0',
    idea=(
        "The values of CLIP's last block are mixed by the similarity of a second backbone's features, DINO's here, on "
        'its finer grid.'
    ),
    notes="""
The published figures, with DINO ViT-B/8, are quoted from the paper without a check; the released name lists have
synonyms and joined words which these configs do not have, so figures will differ.
""",
)


@MODELS.register_module()
class ProxyCLIPAttention(DenseAttention):
    """ProxyCLIP: values of the last block, mixed by the affinity of a second backbone's features, on its grid.

    With the cosines S of the proxy's features and their mean over an image,

        A = softmax of gamma (S - beta mean(S)) over entries that are not negative;  Z = out_proj(A v)

    without residual and MLP. "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation", ECCV 2024,
    section 3.

    Args:
        proxy: Config of the frozen second backbone: ``vlm_dense.ProxyViT``, or any backbone of the registries; its
            last map is taken.
        beta: Threshold of the similarity, as a multiple of the mean.
        gamma: Inverse temperature.
        mean, std: Of the proxy's input, of colours between 0 and 1, or ``'own'``: those of a ``ProxyViT``. The
            tower's images are normalised as its weights want it.

    Raises:
        ConfigError: a proxy that gives no map.
    """

    def __init__(
        self,
        proxy: dict,
        beta: float = 1.2,
        gamma: float = 3.0,
        mean: Sequence[float] | str = IMAGENET_MEAN,
        std: Sequence[float] | str = IMAGENET_STD,
    ):
        super().__init__()
        self.proxy = MODELS.build(proxy).eval().requires_grad_(False)
        self.beta, self.gamma = beta, gamma
        self.proxy_input = Renormalise(*colours_of(self.proxy, mean, std))

    def take_colours(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """As in :class:`DenseAttention`."""
        self.proxy_input.come_from(mean, std)

    def train(self, mode: bool = True) -> ProxyCLIPAttention:
        """Switch the mode; the proxy stays in eval mode."""
        super().train(mode)
        self.proxy.eval()
        return self

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens in the grid of the proxy."""
        features = self.features(last.images)
        tokens = last.blocks[-1](last.tokens, path=partial(self._path, last, features))
        return DenseTokens(tokens, tuple(features.shape[2:]))

    def features(self, images: Tensor) -> Tensor:
        """The proxy's last map (B, C, I, J) of the tower's images."""
        maps = self.proxy(self.proxy_input(images))
        maps = maps[-1] if isinstance(maps, (tuple, list)) else maps
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            raise ConfigError(
                'ProxyCLIPAttention: the proxy must give a map (B, C, I, J) or a list of them, found '
                f'{tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__} of '
                f'{type(self.proxy).__name__}. Choose a backbone that keeps the places.'
            )
        return maps

    def _path(self, last: LastBlocks, features: Tensor, block: TransformerBlock, x: Tensor) -> Tensor:
        value = block.qkv(x)[2].transpose(1, 2).flatten(2)[:, last.patches]  # of all heads
        maps = F.interpolate(value.mT.unflatten(2, last.grid), features.shape[2:], mode='bilinear', align_corners=False)
        weights = self.weights(features.flatten(2).mT)
        mixed = [own.to(value.dtype) @ tokens for own, tokens in zip(weights, maps.flatten(2).mT.split(1), strict=True)]
        return block.scaled(block.output(torch.cat(mixed).unflatten(-1, (block.num_heads, -1)).transpose(1, 2)))

    def weights(self, features: Tensor) -> Iterator[Tensor]:
        """A (1, N, N) of each image of features (B, N, C), the same for each head.

        Image by image, as N x N affinities are the most there is.
        """
        for own in features.split(1):
            yield attention(cosines(own), self.beta, self.gamma)
