"""The last block of a ViT with another attention: what SCLIP, ClearCLIP and NACLIP have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError

SIMILARITIES = ('qk', 'qq', 'kk', 'vv')


class LastBlockAttention(DenseAttention):
    """Runs the last block with weights that are a sum of softmaxes, with or without its residual and MLP.

    With B images, L tokens, H heads of d channels, each of ``similarity`` names two of queries, keys and values, a and
    b, and

        O = out_proj((sum of softmax(a b^T / sqrt(d) + bias)) v)
        Z = X + O or O;  Z + MLP(LN2(Z)) or Z

    Args:
        similarity: Any of ``'qk'``, ``'qq'``, ``'kk'`` and ``'vv'``. None at all: each token attends to itself.
        residual: Keep the residual connection of the attention.
        feed_forward: Keep the MLP, with its residual connection.

    Raises:
        ConfigError: an unknown similarity.
    """

    def __init__(self, similarity: Sequence[str], residual: bool, feed_forward: bool):
        super().__init__()
        self.similarity = tuple(similarity)
        wrong = [pair for pair in self.similarity if pair not in SIMILARITIES]
        if wrong or isinstance(similarity, str):
            raise ConfigError(
                f'{type(self).__name__}: similarity must be a list of any of {list(SIMILARITIES)}, found '
                f'{similarity!r}.'
            )
        self.residual = residual
        self.feed_forward = feed_forward

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the patches, in the grid of the patches."""
        return DenseTokens(self.all_tokens(last)[:, last.patches], last.grid)

    def all_tokens(self, last: LastBlocks) -> Tensor:
        """All tokens after the last block, (B, L, C), the class token included."""
        return last.blocks[-1](last.tokens, path=partial(self.run, last=last))

    def run(self, block: TransformerBlock, x: Tensor, last: LastBlocks, **options: Any) -> Tensor:
        """The block with this attention, (B, L, C) -> (B, L, C); ``options`` are those of :meth:`mix`."""
        q, k, v = block.qkv(x)
        out = block.scaled(block.output(self.mix(block, q, k, v, last, **options)))
        out = x + out if self.residual else out
        return block.feed_forward(out) if self.feed_forward else out

    def mix(self, block: TransformerBlock, q: Tensor, k: Tensor, v: Tensor, last: LastBlocks) -> Tensor:
        """Values (B, H, L, d) mixed by :meth:`weights`, which are not kept: L x L of each head would be the most."""
        if not self.similarity:
            return v
        named, bias = dict(q=q, k=k, v=v), self.bias(last)
        bias = None if bias is None else bias.to(q.dtype)
        return sum(F.scaled_dot_product_attention(named[a], named[b], v, attn_mask=bias) for a, b in self.similarity)

    def weights(self, block: TransformerBlock, q: Tensor, k: Tensor, v: Tensor, last: LastBlocks) -> Tensor | None:
        """Weights (B, H, L, L) of queries, keys and values (B, H, L, d); None if each token attends to itself."""
        named, bias = dict(q=q, k=k, v=v), self.bias(last)
        return sum(block.weights(named[a], named[b], bias) for a, b in self.similarity) if self.similarity else None

    def bias(self, last: LastBlocks) -> Tensor | None:
        """Bias of the scores before the softmax, broadcastable to (B, H, L, L); None here."""
        return None
