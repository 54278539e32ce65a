"""NACLIP: key-key attention that prefers neighbours.

Nothing in CLIP's attention favours the neighbourhood of a patch. In the last block NACLIP compares keys with keys
and adds a Gaussian of the distance between two patches before the softmax. The residual and the feed-forward network
of that block are dropped, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import LastBlocks
from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.last_block import LastBlockAttention
from vlm_dense.registry import MODELS

PAPER = dict(
    name='NACLIP',
    title='Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation',
    venue='WACV 2025',
    link='https://arxiv.org/abs/2404.08181',
    code='https://github.com/sinahmr/NACLIP',
    licence='MIT',
    idea=(
        'In the last block keys attend to keys, and to near ones more than to far ones; the residual and the MLP of '
        'the block are left out. PAMR refines the maps.'
    ),
    notes="""
The published figures are with PAMR, and come from the repository; the released name lists have synonyms and joined
words which these configs do not have, so figures will differ.
""",
)


@MODELS.register_module()
class NACLIPAttention(LastBlockAttention):
    """NACLIP: softmax(k k^T / sqrt(d) + W), no residual, no MLP; W is a Gaussian of the distance of two patches.

    "Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation", WACV 2025, section 3.

    Args:
        std: Standard deviation of the Gaussian in patches; None: no preference for neighbours.
        similarity: See :class:`LastBlockAttention`. None at all leaves neighbours only: softmax(m W), with the mean m
            over heads of (mean length of q)(mean length of k) / sqrt(d).
        residual, feed_forward: See :class:`LastBlockAttention`.

    Raises:
        ConfigError: ``std`` is not positive, or neither ``std`` nor ``similarity`` is given.
    """

    def __init__(
        self,
        std: float | None = 5.0,
        similarity: Sequence[str] = ('kk',),
        residual: bool = False,
        feed_forward: bool = False,
    ):
        super().__init__(similarity, residual, feed_forward)
        if std is not None and std <= 0:
            raise ConfigError(f'NACLIPAttention: std must be positive, in patches, found {std}.')
        if std is None and not self.similarity:
            raise ConfigError('NACLIPAttention: without similarity there are only neighbours, so std must be given.')
        self.std = std

    def mix(self, block: TransformerBlock, q: Tensor, k: Tensor, v: Tensor, last: LastBlocks) -> Tensor:
        """Values (B, H, L, d) mixed by :meth:`weights`."""
        if self.similarity:
            return super().mix(block, q, k, v, last)
        return self.weights(block, q, k, v, last) @ v

    def weights(self, block: TransformerBlock, q: Tensor, k: Tensor, v: Tensor, last: LastBlocks) -> Tensor:
        """Weights (B, H, L, L)."""
        if self.similarity:
            return super().weights(block, q, k, v, last)
        size = (q.norm(dim=-1).mean(-1) * k.norm(dim=-1).mean(-1)).mean(-1) * block.scale
        weights = (size[:, None, None] * self.bias(last)).softmax(dim=-1)
        return weights[:, None].expand(-1, block.num_heads, -1, -1)

    def bias(self, last: LastBlocks) -> Tensor | None:
        """W (L, L), 0 in the rows and columns of tokens that are no patches."""
        return None if self.std is None else neighbours(last, self.std)


def neighbours(last: LastBlocks, std: float) -> Tensor:
    """exp(-(squared distance) / (2 std^2)) between patches, distances in patches: (L, L), 0 for all other tokens."""
    x = last.tokens
    rows, columns = (torch.arange(n, device=x.device, dtype=torch.float32) for n in last.grid)
    row, column = (t.expand(last.grid).flatten() for t in (rows[:, None], columns))
    squared = (row[:, None] - row).square() + (column[:, None] - column).square()
    bias = x.new_zeros(x.shape[1], x.shape[1])
    bias[last.patches, last.patches] = (squared / (-2 * std**2)).exp().to(x.dtype)
    return bias
