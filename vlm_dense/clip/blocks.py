"""Attention and transformer block of both towers; the only place that depends on the internals of open_clip's block.

:class:`Attention` and :class:`Block` take the weights of open_clip's ``nn.MultiheadAttention`` and
``ResidualAttentionBlock`` over, under the same names. Prompts, shared keys and values, masks, packed sequences and
stochastic depth are arguments of a call and no fork of CLIP. Blocks, their attention and its ``out_proj`` are called as
modules, so forward hooks, LoRA, sharding of each block and ``torch.compile`` reach them.

Shapes: N sequences, L tokens, P prefix tokens, C channels, H heads of d = C / H channels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vlm_dense.errors import ConfigError

if TYPE_CHECKING:
    from vlm_dense.clip.text_tower import Packing


def _attention_weights(q: Tensor, k: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    scores = (q * scale) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention with the weights and the names of ``nn.MultiheadAttention``.

    :meth:`forward` is what both towers run. The pieces (:meth:`qkv`, :meth:`weights`, :meth:`output`) are for methods
    that attend in another way::

        q, k, v = attn.qkv(tokens)                           # tokens (N, L, C) after ln_1
        out = attn.output(attn.weights(k, k) @ v)            # key-key attention, (N, L, C)

    Args:
        source: The attention; its parameters are taken, not copied.

    Attributes:
        branches: Part of the projection (0 queries, 1 keys, 2 values) -> update added to it, a function of the
            normalised tokens. The functions are not owned: a low-rank update belongs to its method.

    Raises:
        ConfigError: ``source`` has separate or missing projections, as open_clip's custom blocks do.
    """

    def __init__(self, source: nn.MultiheadAttention):
        super().__init__()
        if not isinstance(source, nn.MultiheadAttention) or source.in_proj_weight is None:
            raise ConfigError(f'expected nn.MultiheadAttention with one projection, found {type(source).__name__}.')
        self.num_heads = source.num_heads
        self.in_proj_weight = source.in_proj_weight
        self.in_proj_bias = source.in_proj_bias
        self.out_proj = source.out_proj
        self.branches: dict[int, Callable[[Tensor], Tensor]] = {}

    @property
    def scale(self) -> float:
        """Factor of the scores, 1 / sqrt(d)."""
        return (self.in_proj_weight.shape[1] // self.num_heads) ** -0.5

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (..., L, C) of normalised tokens (..., L, C), heads not yet split."""
        parts = F.linear(y, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return tuple(part + self.branches[i](y) if i in self.branches else part for i, part in enumerate(parts))

    def qkv(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, H, L, d) of normalised tokens (N, L, C)."""
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for t in self.project(y))
        return q, k, v

    def weights(self, q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention weights, softmax of q k^T / sqrt(d) + bias.

        Args:
            q: (N, H, Lq, d).
            k: (N, H, L, d).
            bias: Added to the scaled scores; broadcastable to (N, H, Lq, L).

        Returns:
            (N, H, Lq, L), rows sum to 1.
        """
        return _attention_weights(q, k, self.scale, bias)

    def output(self, mixed: Tensor) -> Tensor:
        """Output projection of mixed values, (N, H, L, d) -> (N, L, C)."""
        return self.out_proj(mixed.transpose(-3, -2).flatten(-2))

    def forward(
        self,
        y: Tensor,
        *,
        causal: bool = False,
        attn_mask: Tensor | None = None,
        prefix_kv: tuple[Tensor, Tensor] | None = None,
        packing: Packing | None = None,
        last_token_only: bool = False,
        query: Tensor | None = None,
        return_kv: bool = False,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, Tensor]:
        """Attend among normalised tokens.

        Args:
            y: (N, L, C); with ``packing`` (G, S, C), G variants of the same packed sequences of S tokens in all.
            causal: Token i sees tokens 0..i of its own sequence. Packed sequences are always causal. Without effect
                when ``attn_mask`` is given.
            attn_mask: Broadcastable to (N, H, L, P + L); bool, True where a query may look, or float, added to the
                scores.
            prefix_kv: Keys and values, each (1, N or G, H, P, d), put in front of the own ones; all queries see them.
            packing: Places of packed sequences.
            last_token_only: Only the last tokens of the packed sequences are queries.
            query: The only query of each sequence, its index, int64 (N,); ``attn_mask`` is that of this row then.
            return_kv: Also return this call's own keys and values, ready to be another call's ``prefix_kv``.
            return_weights: Also return the attention weights.

        Returns:
            Of the shape of ``y``, or (G, sequences, C) with ``last_token_only``, (N, 1, C) with ``query``; with
            ``return_kv`` a pair of it and (k, v), each (N, H, L, d); with ``return_weights`` a pair of it and
            (N, H, L, L).
        """
        q, k, v = self.project(y)
        groups, n = y.shape[0], None if packing is None else packing.ends.shape[0]
        if query is not None:
            q = rows_of(q, query)
        if packing is not None:  # spread out to rows of equal length, (G * n, L, C)
            queries = packing.ends if last_token_only else packing.padded
            q, k, v = (
                t.index_select(1, rows).reshape(groups * n, -1, t.shape[-1])
                for t, rows in ((q, queries), (k, packing.padded), (v, packing.padded))
            )
            causal, attn_mask = (
                not last_token_only,
                packing.visible.repeat(groups, 1, 1, 1) if last_token_only else None,
            )
            if prefix_kv is not None and groups > 1:
                prefix_kv = tuple(t.repeat_interleave(n, dim=0) for t in prefix_kv)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for t in (q, k, v))
        if return_weights:
            weights = self.weights(q, k)
            return self.output(weights @ v), weights
        keys, values = k, v
        if prefix_kv is not None:
            keys, values = (
                torch.cat([p.expand(t.shape[0], -1, -1, -1), t], dim=2) for p, t in zip(prefix_kv, (k, v), strict=True)
            )
            if causal and attn_mask is None:
                shape = q.shape[2], keys.shape[2]
                attn_mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril(shape[1] - shape[0])
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            attn_mask = attn_mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=attn_mask, is_causal=causal and attn_mask is None
        )
        out = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        if packing is not None:
            out = out.view(groups, -1, out.shape[-1])
            return out if last_token_only else out.index_select(1, packing.rows)
        return (out, (k, v)) if return_kv else out


def not_kept(output: Tensor, function: Callable[[Tensor], Tensor], x: Tensor) -> AbstractContextManager[None]:
    """Inside, operations on ``output`` do not keep it: their backward pass computes ``function(x)`` again.

    For a cheap function that keeps ``x`` for its own backward pass, as a norm. Gradients are the same, bit for bit.
    Without effect in a compiled graph, where the compiler chooses what is kept, and on what autocast converts to
    another dtype.

    Args:
        output: ``function(x)``.
        function: Gives the same for the same input.
        x: Its input.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    place, source = output.untyped_storage().data_ptr(), x.detach()

    def pack(tensor: Tensor) -> Tensor | tuple:
        own = tensor.untyped_storage().data_ptr() == place
        return (tensor.size(), tensor.stride(), tensor.storage_offset()) if own else tensor

    def unpack(packed: Tensor | tuple) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return function(source).as_strided(*packed)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


class TransformerBlock(nn.Module):
    """What methods that attend in another way use of a tower's block, whatever its kind.

    :class:`Block` is that of open_clip's transformers, :mod:`vlm_dense.clip.timm_blocks` has those of timm's. Key-key
    attention in a block, for one, is a ``path`` of its :meth:`forward`::

        def path(block, x):                                  # hidden states (N, L, C)
            q, k, v = block.qkv(x)
            x = x + block.scaled(block.output(block.weights(k, k) @ v))
            return block.feed_forward(x)

    Attributes:
        num_heads: H.
        scale: Factor of the scores, 1 / sqrt(d).
        branches: Part of the projection (0 queries, 1 keys, 2 values) -> update added to it, a function of the
            normalised tokens. The functions are not owned: a low-rank update belongs to its method.
    """

    num_heads: int
    scale: float
    branches: dict[int, Callable[[Tensor], Tensor]]

    @property
    def unrotated(self) -> TransformerBlock:
        """The block without rotary positions of the images at hand."""
        return self

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, H, L, d), as the softmax gets them, of hidden states (N, L, C)."""
        raise NotImplementedError

    def output(self, mixed: Tensor) -> Tensor:
        """Output projection of mixed values, (N, H, L, d) -> (N, L, C)."""
        raise NotImplementedError

    def scaled(self, branch: Tensor) -> Tensor:
        """The attention's branch (N, L, C) as it is added to the residual: layer scale, or the norm behind it."""
        raise NotImplementedError

    def feed_forward(self, x: Tensor) -> Tensor:
        """``x`` plus the MLP branch; (..., C)."""
        raise NotImplementedError

    def weights(self, q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention weights, softmax of q k^T / sqrt(d) + bias.

        Args:
            q: (N, H, Lq, d).
            k: (N, H, L, d).
            bias: Added to the scaled scores; broadcastable to (N, H, Lq, L).

        Returns:
            (N, H, Lq, L), rows sum to 1.
        """
        return _attention_weights(q, k, self.scale, bias)

    def linear_maps(self) -> dict[str, tuple[nn.Module, int | None, nn.Parameter]]:
        """The block's linear maps for low-rank updates.

        Returns:
            ``attn.q_proj``, ``attn.k_proj``, ``attn.v_proj``, ``attn.proj`` and ``mlp.*`` -> the layer, None and its
            weight; for the first three the module that has ``branches``, the part of the projection, 0 to 2, and the
            weight, which may hold all three.
        """
        raise NotImplementedError


QKV = ('q_proj', 'k_proj', 'v_proj')
"""Names of the parts of an attention's projection in CLIP-LoRA's release, in their order in a packed weight."""


def linear_layers(mlp: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Names and linear layers of an MLP."""
    return [(name, layer) for name, layer in mlp.named_modules() if isinstance(layer, nn.Linear)]


class Block(TransformerBlock):
    """Pre-norm transformer block with the weights and the names of open_clip's ``ResidualAttentionBlock``.

    Without extras ``Block(block)(x)`` equals ``block(x)``.

    Args:
        source: The block; its parts are taken, not copied.

    Raises:
        ConfigError: ``source`` is another kind of block, which this one would compute wrongly.
    """

    def __init__(self, source: ResidualAttentionBlock):
        super().__init__()
        plain = (
            isinstance(source, ResidualAttentionBlock)
            and isinstance(source.attn, nn.MultiheadAttention)
            and source.attn.in_proj_weight is not None
            and not hasattr(source, 'ln_1_kv')
        )
        if not plain:
            raise ConfigError(
                "expected open_clip's ResidualAttentionBlock with self-attention by nn.MultiheadAttention, found "
                f'{type(source).__module__}.{type(source).__name__}. Choose an architecture without custom blocks '
                '(no qk_norm, scale_attn, block_type and the like in its open_clip config).'
            )
        self.ln_1, self.attn, self.ls_1 = source.ln_1, Attention(source.attn), source.ls_1
        self.ln_2, self.mlp, self.ls_2 = source.ln_2, source.mlp, source.ls_2

    @property
    def num_heads(self) -> int:  # noqa: D102
        return self.attn.num_heads

    @property
    def scale(self) -> float:  # noqa: D102
        return self.attn.scale

    @property
    def branches(self) -> dict[int, Callable[[Tensor], Tensor]]:  # noqa: D102
        return self.attn.branches

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in :class:`TransformerBlock`."""
        return self.attn.qkv(self.ln_1(x))

    def output(self, mixed: Tensor) -> Tensor:
        """As in :class:`TransformerBlock`."""
        return self.attn.output(mixed)

    def scaled(self, branch: Tensor) -> Tensor:
        """As in :class:`TransformerBlock`."""
        return self.ls_1(branch)

    def linear_maps(self) -> dict[str, tuple[nn.Module, int | None, nn.Parameter]]:
        """As in :class:`TransformerBlock`."""
        attn, mlp = self.attn, self.mlp
        found = {f'attn.{name}': (attn, part, attn.in_proj_weight) for part, name in enumerate(QKV)}
        found['attn.proj'] = attn.out_proj, None, attn.out_proj.weight
        return found | {f'mlp.{name}': (layer, None, layer.weight) for name, layer in linear_layers(mlp)}

    def forward(
        self,
        x: Tensor,
        *,
        drop_path: nn.Module | None = None,
        path: Callable[[Block, Tensor], Tensor] | None = None,
        light: bool = False,
        **attention,
    ) -> Tensor | tuple[Tensor, object]:
        """Run the block.

        Args:
            x: (N, L, C) tokens; with ``packing`` (G, S, C).
            drop_path: Module applied to both residual branches (stochastic depth).
            path: Function of this block and ``x``; its result replaces the block's own. A method that
                uses the block's parts in another way goes through here, so that a wrapper of the block (sharding) has
                gathered its weights and hooks on it fire.
            light: Compute normalised tokens and hidden tokens of the MLP again in the backward pass.
            **attention: Options of :meth:`Attention.forward`.

        Returns:
            (N, L, C), or what :meth:`Attention.forward` gives by its options: (G, sequences, C) with
            ``last_token_only``, (N, 1, C) with ``query``; a pair of tokens and keys and values with ``return_kv``, of
            tokens and weights with ``return_weights``.
        """
        if path is not None:
            return path(self, x)
        y = self.ln_1(x)
        with not_kept(y, self.ln_1, x) if light else nullcontext():
            branch, extra = self.attn(y, **attention), None
        if isinstance(branch, tuple):
            branch, extra = branch
        if attention.get('query') is not None:
            x = rows_of(x, attention['query'])
        if attention.get('last_token_only'):
            x = x.index_select(1, attention['packing'].ends)
        branch = self.ls_1(branch)
        x = self.feed_forward(x + (branch if drop_path is None else drop_path(branch)), drop_path, light)
        return x if extra is None else (x, extra)

    def feed_forward(self, x: Tensor, drop_path: nn.Module | None = None, light: bool = False) -> Tensor:
        """``x`` plus the MLP branch; (..., C)."""
        y = self.ln_2(x)
        if light:  # kept are the inputs of norm and activation; no product is computed twice
            with not_kept(y, self.ln_2, x):
                y = self.mlp[0](y)
            y = checkpoint(self.mlp[1:], y, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self.mlp(y)
        y = self.ls_2(y)
        return x + (y if drop_path is None else drop_path(y))


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """One token of each sequence: (N, L, C) and (N,) -> (N, 1, C)."""
    return x.take_along_dim(index[:, None, None], dim=1)


class Blocks(nn.Module):
    """The blocks of a tower, under the name ``resblocks`` of the published checkpoints.

    Args:
        source: open_clip's ``Transformer``; its weights are taken, not copied.
    """

    def __init__(self, source: nn.Module):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(block) for block in source.resblocks)
