"""Causal sequences behind a shared prefix, through the blocks of the text tower, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.packing import Packing

_RECOMPUTE = dict(use_reentrant=False)  # with the same random numbers, as a method's dropout draws some


@dataclass
class CausalPass:
    """One pass of G variants of N sequences; a variant has a prefix of its own, the sequences are those of all.

    The prefix goes through the blocks once. The sequences' own tokens are packed and attend to its keys and values.

    Attributes:
        blocks: The tower's blocks, :class:`vlm_dense.clip.blocks.Block`.
        positions: (context_length, C) table of positions.
        finish: What becomes of the last tokens, (G, N, C) -> (G, N, D).
        chunk_size: Sequences (N times G) that are computed at once.
        deep: Tokens that replace those after the first before blocks 1, 2, ...: (layers, M, C), or (layers, G, M, C)
            with a prefix. None: nothing is replaced.
        inserted: A block, and tokens (N, M, C) that replace the first M own ones of each sequence before it. None:
            nothing is replaced.
    """

    blocks: Sequence[nn.Module]
    positions: Tensor
    finish: Callable[[Tensor], Tensor]
    chunk_size: int
    deep: Tensor | None = None
    inserted: tuple[int, Tensor] | None = None

    def __call__(self, embeddings: Tensor, lengths: Tensor, prefix: Tensor | None) -> Tensor:
        """Encode the last token of each sequence.

        When gradients are needed and there is more than one chunk, chunks of half the size are computed again in the
        backward pass, so that what it keeps does not grow with N.

        Args:
            embeddings: (N, T, C) own tokens without positions.
            lengths: (N,) int64, own tokens of each sequence.
            prefix: (G, P, C) without positions, or None for G = 1 and no prefix.

        Returns:
            (G, N, D).
        """
        groups, before = (1, 0) if prefix is None else prefix.shape[:2]
        limit = self.chunk_size
        recompute = groups * len(lengths) > limit and torch.is_grad_enabled()
        keys_values = None
        if prefix is not None:
            if recompute and groups > 1:  # else what the backward pass keeps would grow with the images
                keys_values = checkpoint(self._prefix_keys_values, prefix, **_RECOMPUTE)
            else:
                keys_values = self._prefix_keys_values(prefix)
        if recompute:  # leaves room for what grows with the classes, so that the peak stays below one full chunk's
            limit = max(1, limit // 2)
        encoded = []
        for start in range(0, len(lengths), limit):
            own = embeddings[start : start + limit]
            packing = self._plan(lengths[start : start + limit], before, own)
            several = max(1, limit // len(own))
            chunk = []
            for first in range(0, groups, several):
                count = min(several, groups - first)
                kv = keys_values and [(k[first : first + count], v[first : first + count]) for k, v in keys_values]
                tokens = self.inserted and self.inserted[1][start : start + limit]
                args = own, packing, count, before, kv, tokens
                if recompute:
                    chunk.append(checkpoint(self._chunk, *args, **_RECOMPUTE))
                else:
                    chunk.append(self._chunk(*args))
            encoded.append(torch.cat(chunk))
        return torch.cat(encoded, dim=1)

    @staticmethod
    def _plan(lengths: Tensor, before: int, own: Tensor) -> Packing:
        if torch.compiler.is_compiling():
            return Packing.with_padding(lengths, own.shape[1], before)
        return Packing.of(lengths, before, own.device)

    def _replaced(self, layer: int) -> bool:
        return self.deep is not None and 1 <= layer <= len(self.deep)

    def _prefix_keys_values(self, prefix: Tensor) -> list[tuple[Tensor, Tensor]]:
        x = prefix + self.positions[: prefix.shape[1]].to(prefix.dtype)
        keys_values = []
        for layer, block in enumerate(self.blocks):
            if self._replaced(layer):
                rows = self.deep[layer - 1].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], rows, x[:, 1 + rows.shape[1] :]], dim=1)
            x, kv = block(x, causal=True, return_kv=True)
            keys_values.append(kv)
        return keys_values

    def _chunk(
        self, own: Tensor, packing: Packing, groups: int, before: int, keys_values, tokens: Tensor | None
    ) -> Tensor:
        longest = packing.visible.shape[-1] - before
        x = own[:, :longest] + self.positions[before : before + longest].to(own.dtype)
        x = x.flatten(0, 1).index_select(0, packing.rows).expand(groups, -1, -1)
        for layer, block in enumerate(self.blocks):
            if keys_values is None and self._replaced(layer):
                rows = packing.starts[:, None] + torch.arange(1, 1 + self.deep.shape[1], device=x.device)
                x = x.index_copy(1, rows.flatten(), self.deep[layer - 1].to(x.dtype).repeat(len(rows), 1)[None])
            if tokens is not None and layer == self.inserted[0]:
                rows = packing.starts[:, None] + torch.arange(tokens.shape[1], device=x.device)
                x = x.index_copy(1, rows.flatten(), tokens.flatten(0, 1).to(x.dtype).expand(groups, -1, -1))
            kv = keys_values and keys_values[layer]
            x = block(x, packing=packing, prefix_kv=kv, ends_only=layer == len(self.blocks) - 1)
        return self.finish(x)
