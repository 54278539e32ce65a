"""The one adapter that knows the inside of open_clip's transformer block.

Both towers run open_clip's ``ResidualAttentionBlock`` through the functions
here, so that prompts, shared keys and values, masks and stochastic depth are
arguments of a call and not a fork of CLIP. Without extras
``block_forward(block, x)`` equals ``block(x)``.

Shapes: N sequences, L tokens, P prefix tokens, C channels, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from vlm_dense.errors import ConfigError


def check_block(block: nn.Module) -> None:
    """Refuse a block that the functions of this module would compute wrongly.

    Raises:
        ConfigError: ``block`` is not open_clip's plain pre-norm
            self-attention block.
    """
    plain = (
        isinstance(block, ResidualAttentionBlock)
        and isinstance(block.attn, nn.MultiheadAttention)
        and block.attn.in_proj_weight is not None
        and not hasattr(block, 'ln_1_kv')
    )
    if not plain:
        raise ConfigError(
            "expected open_clip's ResidualAttentionBlock with self-attention by nn.MultiheadAttention, found "
            f'{type(block).__module__}.{type(block).__name__}. Choose an architecture without custom blocks '
            '(no qk_norm, scale_attn, block_type and the like in its open_clip config).'
        )


def project_qkv(attn: nn.MultiheadAttention, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of normalised tokens.

    Args:
        attn: The block's attention.
        y: ``(..., C)`` tokens after ``ln_1``.

    Returns:
        Three ``(..., C)`` tensors, bias included, heads not yet split.
    """
    return F.linear(y, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)


def split_heads(t: Tensor, heads: int) -> Tensor:
    """``(N, L, C)`` -> ``(N, H, L, C / H)``."""
    return t.unflatten(-1, (heads, -1)).transpose(-3, -2)


def attend(
    attn: nn.MultiheadAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    attn_mask: Tensor | None = None,
    prefix_kv: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product attention and the output projection.

    Args:
        attn: The block's attention.
        q: ``(N, H, Lq, C / H)`` queries.
        k: ``(N, H, L, C / H)`` keys.
        v: ``(N, H, L, C / H)`` values.
        causal: Token i sees tokens 0..i of its own sequence (Lq = L). Without
            effect when ``attn_mask`` is given.
        attn_mask: Broadcastable to ``(N, H, Lq, P + L)``; bool, True where a
            query may look, or float, added to the scores.
        prefix_kv: Keys and values, each ``(1 or N, H, P, C / H)``, put in
            front of ``k`` and ``v``; every query sees all of them.

    Returns:
        ``(N, Lq, C)``.
    """
    if prefix_kv is not None:
        k, v = (torch.cat([p.expand(t.shape[0], -1, -1, -1), t], dim=2) for p, t in zip(prefix_kv, (k, v), strict=True))
        if causal and attn_mask is None:
            shape = q.shape[2], k.shape[2]
            attn_mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril(shape[1] - shape[0])
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=causal and attn_mask is None)
    return F.linear(out.transpose(1, 2).flatten(2), attn.out_proj.weight, attn.out_proj.bias)


def feed_forward(block: nn.Module, x: Tensor, drop_path: nn.Module | None = None) -> Tensor:
    """``x`` plus the block's MLP branch; any leading shape, ``(..., C)``."""
    branch = block.ls_2(block.mlp(block.ln_2(x)))
    return x + (branch if drop_path is None else drop_path(branch))


def block_forward(
    block: nn.Module,
    x: Tensor,
    *,
    causal: bool = False,
    attn_mask: Tensor | None = None,
    prefix_kv: tuple[Tensor, Tensor] | None = None,
    return_kv: bool = False,
    drop_path: nn.Module | None = None,
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one block, with prompts, masks and stochastic depth as arguments.

    Args:
        block: open_clip's ``ResidualAttentionBlock``.
        x: ``(N, L, C)`` tokens.
        causal, attn_mask, prefix_kv: See :func:`attend`.
        return_kv: Also return this call's own keys and values, ready to be
            another call's ``prefix_kv``.
        drop_path: Module applied to both residual branches.

    Returns:
        ``(N, L, C)``; with ``return_kv`` a pair of it and ``(k, v)``, each
        ``(N, H, L, C / H)``.

    Raises:
        ConfigError: The block is of another kind.
    """
    check_block(block)
    q, k, v = (split_heads(t, block.attn.num_heads) for t in project_qkv(block.attn, block.ln_1(x)))
    branch = attend(block.attn, q, k, v, causal=causal, attn_mask=attn_mask, prefix_kv=prefix_kv)
    branch = block.ls_1(branch)
    x = feed_forward(block, x + (branch if drop_path is None else drop_path(branch)), drop_path)
    return (x, (k, v)) if return_kv else x


@dataclass
class Packing:
    """Where the tokens of N causal sequences lie when put end to end without padding.

    Attributes:
        rows: ``(S,)`` rows of the flattened ``(N * longest)`` padded layout that hold tokens.
        padded: ``(N * longest,)`` packed row of each padded place (padding repeats a token of its sequence).
        starts: ``(N,)`` packed row of each sequence's first token.
        ends: ``(N,)`` packed row of each sequence's last token.
        visible: ``(N, 1, 1, P + longest)`` bool, the keys that a last token sees.
    """

    rows: Tensor
    padded: Tensor
    starts: Tensor
    ends: Tensor
    visible: Tensor

    @classmethod
    def of(cls, lengths: Tensor, prefix_length: int, device: torch.device) -> Packing:
        """Plan for sequences of ``lengths`` (CPU, ``(N,)``) behind ``prefix_length`` shared tokens."""
        longest = int(lengths.max())
        own = (torch.arange(longest) < lengths[:, None]).flatten()
        ends = lengths.cumsum(0) - 1
        visible = torch.arange(prefix_length + longest) < prefix_length + lengths[:, None]
        plan = own.nonzero().squeeze(1), own.cumsum(0) - 1, ends - lengths + 1, ends, visible[:, None, None]
        return cls(*(t.to(device, non_blocking=True) for t in plan))


def packed_block_forward(
    block: nn.Module,
    x: Tensor,
    packing: Packing,
    *,
    prefix_kv: tuple[Tensor, Tensor] | None = None,
    ends_only: bool = False,
) -> Tensor:
    """Run one causal block over packed sequences, so that no padding goes through its linear layers.

    Args:
        block: open_clip's ``ResidualAttentionBlock``.
        x: ``(G, S, C)``: G variants of the same N sequences, S tokens in all.
        packing: Places of the tokens.
        prefix_kv: Keys and values, each ``(G, H, P, C / H)``, that all
            sequences of a variant see.
        ends_only: Return only the sequences' last tokens, ``(G, N, C)``, and
            spare the others' queries and MLP.

    Returns:
        ``(G, S, C)``, or ``(G, N, C)`` with ``ends_only``.

    Raises:
        ConfigError: The block is of another kind.
    """
    check_block(block)
    groups, n = x.shape[0], packing.ends.shape[0]
    q, k, v = project_qkv(block.attn, block.ln_1(x))

    def heads(t: Tensor, rows: Tensor) -> Tensor:
        return split_heads(t.index_select(1, rows).reshape(groups * n, -1, t.shape[-1]), block.attn.num_heads)

    k, v = heads(k, packing.padded), heads(v, packing.padded)
    if prefix_kv is not None and groups > 1:
        prefix_kv = tuple(t.repeat_interleave(n, dim=0) for t in prefix_kv)
    if ends_only:
        mask = packing.visible.repeat(groups, 1, 1, 1)
        branch = attend(block.attn, heads(q, packing.ends), k, v, attn_mask=mask, prefix_kv=prefix_kv)
        branch, x = branch.view(groups, n, -1), x.index_select(1, packing.ends)
    else:
        branch = attend(block.attn, heads(q, packing.padded), k, v, causal=True, prefix_kv=prefix_kv)
        branch = branch.view(groups, packing.padded.shape[0], -1).index_select(1, packing.rows)
    return feed_forward(block, x + block.ls_1(branch))
