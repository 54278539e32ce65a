"""The blocks of timm's vision transformers, with what methods need of a block.

A block stays timm's own module, with its weights, names and arithmetic; :func:`adopt` makes its class one of these,
which add the interface of :class:`~vlm_dense.clip.blocks.TransformerBlock`. Only where a method attends in another way,
recomputes the MLP or updates the projections, timm's ``forward`` is left for the same steps written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.models import eva, vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.blocks import QKV, TransformerBlock, linear_layers
from vlm_dense.errors import ConfigError


class TimmBlock(TransformerBlock):
    """What the kinds of timm's blocks have in common; see :class:`TransformerBlock`."""

    norm_behind = False
    """Whether the norms follow attention and MLP instead of preceding them."""

    @property
    def num_heads(self) -> int:  # noqa: D102
        return self.attn.num_heads

    @property
    def scale(self) -> float:  # noqa: D102
        return self.attn.scale

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, L, C) of normalised tokens (N, L, C), before heads, norms and rotation."""
        attn = self.attn
        if attn.qkv is None:
            parts = attn.q_proj(y), attn.k_proj(y), attn.v_proj(y)
        else:
            bias = attn.qkv.bias
            if getattr(attn, 'q_bias', None) is not None:  # EVA has them apart, and none of the keys
                bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
            parts = F.linear(y, attn.qkv.weight, bias).chunk(3, dim=-1)
        return tuple(part + self.branches[i](y) if i in self.branches else part for i, part in enumerate(parts))

    def qkv(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As in :class:`TransformerBlock`.

        Args:
            rope: (L - P, 2 d) rotation of the tokens behind the prefix.
        """
        attn = self.attn
        parts = self.project(x if self.norm_behind else self.norm1(x))
        q, k, v = (part.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for part in parts)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if rope is not None:
            n, half = q.shape[2] - len(rope), attn.rotate_half
            q, k = (
                torch.cat([t[:, :, :n], apply_rot_embed_cat(t[:, :, n:], rope, half=half)], dim=2).type_as(v)
                for t in (q, k)
            )
        groups = q.shape[1] // k.shape[1]
        if groups > 1:  # several heads of queries share one of keys and values
            k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        return q, k, v

    def output(self, mixed: Tensor) -> Tensor:
        """As in :class:`TransformerBlock`."""
        attn = self.attn
        return attn.proj_drop(attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2))))

    def scaled(self, branch: Tensor) -> Tensor:
        """As in :class:`TransformerBlock`."""
        return self.ls1(branch)

    def _scaled_mlp(self, branch: Tensor) -> Tensor:
        return self.ls2(branch)

    def feed_forward(self, x: Tensor, light: bool = False) -> Tensor:
        """As in :class:`TransformerBlock`; ``light`` computes the MLP again in the backward pass."""
        y = x if self.norm_behind else self.norm2(x)
        y = checkpoint(self.mlp, y, use_reentrant=False) if light else self.mlp(y)
        return x + self.drop_path2(self._scaled_mlp(y))

    def forward(
        self,
        x: Tensor,
        *,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        path: Callable[[TransformerBlock, Tensor], Any] | None = None,
        light: bool = False,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            x: (N, L, C) tokens.
            rope: (L - P, 2 d) rotation of the tokens behind the prefix.
            attn_mask, path: As in :meth:`vlm_dense.clip.blocks.Block.forward`.
            light: Compute the MLP again in the backward pass.
            return_weights: Also return the attention weights (N, H, L, L).
        """
        if path is not None:
            return path(self, x)
        fits = rope is None or x.shape[1] - len(rope) == self.attn.num_prefix_tokens
        if fits and not (light or return_weights or self.branches):
            options = dict(rope=rope, attn_mask=attn_mask)
            return super().forward(x, **{name: value for name, value in options.items() if value is not None})
        q, k, v = self.qkv(x, rope)
        weights = self.weights(q, k) if return_weights else None
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask) if weights is None else weights @ v
        x = self.feed_forward(x + self.drop_path1(self.scaled(self.output(mixed))), light)
        return (x, weights) if return_weights else x

    def linear_maps(self) -> dict[str, tuple[nn.Module, int | None, nn.Parameter]]:
        """As in :class:`TransformerBlock`."""
        attn = self.attn
        found = {
            f'attn.{name}': (self, i, (getattr(attn, name) if attn.qkv is None else attn.qkv).weight)
            for i, name in enumerate(QKV)
        }
        found['attn.proj'] = attn.proj, None, attn.proj.weight
        return found | {f'mlp.{name}': (layer, None, layer.weight) for name, layer in linear_layers(self.mlp)}


class PreNormBlock(TimmBlock, vision_transformer.Block):
    """timm's ``Block``."""


class EvaBlock(TimmBlock, eva.EvaBlock):
    """timm's ``EvaBlock``: rotary positions, layer scales that may be absent."""

    def scaled(self, branch: Tensor) -> Tensor:
        """As in :class:`TransformerBlock`."""
        return branch if self.gamma_1 is None else self.gamma_1 * branch

    def _scaled_mlp(self, branch: Tensor) -> Tensor:
        return branch if self.gamma_2 is None else self.gamma_2 * branch


class EvaPostNormBlock(TimmBlock, eva.EvaBlockPostNorm):
    """timm's ``EvaBlockPostNorm``: the norms follow attention and MLP."""

    norm_behind = True

    def scaled(self, branch: Tensor) -> Tensor:
        """As in :class:`TransformerBlock`."""
        return self.norm1(branch)

    def _scaled_mlp(self, branch: Tensor) -> Tensor:
        return self.norm2(branch)


_KINDS = {
    vision_transformer.Block: PreNormBlock,
    eva.EvaBlock: EvaBlock,
    eva.EvaBlockPostNorm: EvaPostNormBlock,
}


def adopt(block: nn.Module) -> TimmBlock:
    """Give a block of timm's the interface of :class:`TransformerBlock`; it stays the same module.

    Raises:
        ConfigError: it is of a kind that is not known here, or has a gated attention.
    """
    kind = _KINDS.get(type(block))
    if kind is None or getattr(block.attn, 'gate', None) is not None:
        raise ConfigError(
            f'expected blocks of timm, {", ".join(known.__name__ for known in _KINDS)} without gates, found '
            f'{type(block).__module__}.{type(block).__name__}. Choose an architecture with those.'
        )
    block.__class__ = kind
    block.branches = {}
    return block


class BoundBlock:
    """A block with the rotation of the images at hand, for parts that call it as if there were none.

    Args:
        block: It.
        rope: (L - P, 2 d) rotation of the tokens behind the prefix.
        patches: (N, 2 d) rotation of the patches among them, for parts that leave out all other tokens.
    """

    def __init__(self, block: TimmBlock, rope: Tensor, patches: Tensor):
        self._block, self._rope, self._patches = block, rope, patches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    @property
    def unrotated(self) -> TimmBlock:
        """As in :class:`TransformerBlock`."""
        return self._block

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in :class:`TransformerBlock`."""
        return self._block.qkv(x, self._of(x))

    def _of(self, x: Tensor) -> Tensor:
        return self._patches if x.shape[1] == len(self._patches) else self._rope

    def __call__(self, x: Tensor, *, path: Callable[[BoundBlock, Tensor], Any] | None = None, **options: Any) -> Any:
        """Run the block, or ``path`` of this view of it."""
        if path is None:
            return self._block(x, rope=self._of(x), **options)
        return self._block(x, path=lambda block, tokens: path(self, tokens))
