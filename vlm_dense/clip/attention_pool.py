"""CLIP's attention pool for maps of any size, behind CLIP's own ResNet or another backbone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.positions import resize_positions
from vlm_dense.errors import ConfigError


class AttentionPooling:
    """Mixin of image towers whose ``attnpool`` is open_clip's ``AttentionPool2d``.

    Attributes:
        attnpool_positions: ``'interpolate'`` resizes the stored grid of positions to the map's size (DenseCLIP
            segmentation), ``'bicubic'`` does so as its name says (DualCoOp); ``'crop'`` takes its top left part
            (DenseCLIP detection).
    """

    position_key = 'attnpool.positional_embedding'
    attnpool_positions = 'interpolate'

    def pool_tokens(self, x: Tensor, positions: bool = True) -> Tensor:
        """Tokens that enter the attention pool: mean of all positions, then the positions.

        Args:
            x: (B, C, h, w) map of the last stage.
            positions: Add the position table (CLIP does).

        Returns:
            (B, 1 + h*w, C).
        """
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        return tokens + self._positions(x.shape[2:]).to(tokens.dtype) if positions else tokens

    def _positions(self, size: torch.Size) -> Tensor:
        table = self.attnpool.positional_embedding
        h, w = size
        if self.attnpool_positions != 'crop':
            return resize_positions(
                table, (h, w), dict(interpolate='bilinear', bicubic='bicubic')[self.attnpool_positions]
            )
        side = math.isqrt(len(table) - 1)
        if h > side or w > side:
            raise ConfigError(
                f'The attention pool stores positions of a {side} x {side} grid (images up to {32 * side} px), found '
                f"a {h} x {w} map. Raise input_resolution or set attnpool_positions='interpolate'."
            )
        grid = table[1:].unflatten(0, (side, side))[:h, :w]
        return torch.cat([table[:1], grid.flatten(0, 1)])

    def attention_pool(self, x: Tensor, all_tokens: bool, positions: bool = True) -> Tensor:
        """CLIP's attention pool.

        Args:
            x: (B, C, h, w) map of the last stage.
            all_tokens: Every token is a query, not just the mean token.
            positions: Add the position table (CLIP does; MaskCLIP's ``attn_pooling`` does not).

        Returns:
            (B, 1 + h*w, D), or (B, 1, D) without ``all_tokens``. Row 0 is CLIP's image feature.
        """
        pool = self.attnpool
        tokens = self.pool_tokens(x, positions)
        queries = tokens if all_tokens else tokens[:, :1]
        q, k, v = (
            proj(t).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for proj, t in ((pool.q_proj, queries), (pool.k_proj, tokens), (pool.v_proj, tokens))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return pool.c_proj(mixed.transpose(1, 2).flatten(2))
