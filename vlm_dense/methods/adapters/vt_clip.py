"""VT-CLIP: cross-attention of the text of each class to the positions of the image.

In a transformer decoder layer each class embedding attends to the spatial features of the image. The changed embedding
is added to the original one and classifies that image, while both towers stay frozen. The authors published no code,
so the layer is the standard decoder block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.contract.roles import CosineHead
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='VT-CLIP',
    title='VT-CLIP: Enhancing Vision-Language Models with Visual-guided Texts',
    venue='arXiv 2021',
    link='https://arxiv.org/abs/2112.02399',
    idea=(
        'A transformer decoder layer lets the text of each class look at the positions of the image; what it finds is '
        'added to the text, which then classifies the image. The layer is trained on a few images of each class, CLIP '
        'is not.'
    ),
    trains='a transformer decoder layer by which the text looks at the image',
    contract='text looks at the image; CE',
    notes="""
`vt_clip_vit_shapes.py` is the same on the ViT of the comparisons.

The paper has no public code and its recipe is unknown: number and width of the layers, their norms and the
residual are arguments of the head, and the schedule is that of the family of adapters. There is no published figure
to compare with. `zero_init=True` begins at zero-shot CLIP.
""",
)


@MODELS.register_module()
class VTCLIP(CosineHead):
    """``scale * cos(g, T + ratio * decode(T, S))`` (section 3.2), for each image again.

    g is the feature of the image, S its positions and T the K classes, S and T of unit length. ``decode`` are
    transformer decoder layers in which the classes attend to each other, then to S. The paper has no public code;
    what it leaves open (number and width of the layers, norms, the residual) are arguments.

    Args:
        image_tower: The classifier's; gives D.
        num_layers: Decoder layers.
        num_heads: Heads of their attention; D is a multiple of it.
        ffn_channels: Width of their feed-forward networks. Default: 4 D.
        ratio: How much the image adds to the text.
        norm_first: Layer norms before and not after attention and network.
        dropout: Of the layers.
        zero_init: Begin with ``decode(T, S) = 0``: the gain of the last layer norm is 0, and training starts at
            zero-shot CLIP. Not with ``norm_first``, which adds T to what it decodes.
        chunk_size: Images that go through the layers at once; in training each chunk is computed again in the backward
            pass, as K * M values an image are kept otherwise.

    Raises:
        ConfigError: numbers that cannot be, or ``zero_init`` with ``norm_first``.
    """

    features = ('global', 'dense')

    def __init__(
        self,
        image_tower: ImageTower,
        num_layers: int = 1,
        num_heads: int = 8,
        ffn_channels: int | None = None,
        ratio: float = 1.0,
        norm_first: bool = False,
        dropout: float = 0.0,
        zero_init: bool = False,
        chunk_size: int = 32,
    ):
        super().__init__()
        dim = image_tower.embed_dim
        if min(num_layers, num_heads, chunk_size) < 1 or dim % num_heads:
            raise ConfigError(
                f'VTCLIP: num_layers, num_heads and chunk_size must be at least 1 and num_heads divide the {dim} '
                f'channels of the tower; found {num_layers}, {num_heads} and {chunk_size}.'
            )
        if zero_init and norm_first:
            raise ConfigError('VTCLIP: zero_init needs a layer norm at the end; leave out norm_first or zero_init.')
        self.ratio, self.chunk_size = ratio, chunk_size
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                dim, num_heads, ffn_channels or 4 * dim, dropout, batch_first=True, norm_first=norm_first
            )
            for _ in range(num_layers)
        )
        if zero_init:
            nn.init.zeros_(self.layers[-1].norm3.weight)

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K)."""
        positions = F.normalize(features.dense.flatten(2).transpose(1, 2), dim=-1)
        text = text[None] if text.dim() == 2 else text
        text = text.expand(len(positions), *text.shape[1:])
        guided = F.normalize(self.guide(text, positions), dim=-1)
        return super().logits(features, guided, logit_scale)

    def guide(self, text: Tensor, positions: Tensor) -> Tensor:
        """T + ratio * decode(T, S), not normalised.

        Args:
            text: (B, K, D) or (B, V, K, D); variants do not attend to each other.
            positions: (B, M, D).

        Returns:
            Of the shape of ``text``.
        """
        chunks = []
        for part, where in zip(text.split(self.chunk_size), positions.split(self.chunk_size), strict=True):
            if torch.is_grad_enabled() and len(text) > self.chunk_size:
                chunks.append(checkpoint(self.decode, part, where, use_reentrant=False))
            else:
                chunks.append(self.decode(part, where))
        return text + self.ratio * torch.cat(chunks)

    def decode(self, text: Tensor, positions: Tensor) -> Tensor:
        """The layers, of the shape of ``text``."""
        variants = text[0, ..., 0, 0].numel()
        x = text.reshape(-1, *text.shape[-2:])
        positions = positions.repeat_interleave(variants, dim=0)
        for layer in self.layers:
            x = layer(x, positions)
        return x.view_as(text)
