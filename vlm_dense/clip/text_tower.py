"""CLIP's text tower: token ids or prompt embeddings -> class embeddings.

The tower is causal and is read at the end-of-text token (EOT), so four savings
change nothing beyond rounding:

1. tokens after a sequence's EOT are not computed, and the rest goes through
   the linear layers without padding; in the last layer only the EOT rows are
   queried;
2. tokens that all sequences share at the front go through the layers once,
   and the sequences' own tokens attend to their keys and values;
3. with many sequences, chunks are recomputed in the backward pass, so that
   memory does not grow with the number of classes;
4. embeddings of token ids by a frozen tower are cached until its weights change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip import loading
from vlm_dense.clip.blocks import Blocks
from vlm_dense.clip.digest import BoundedCache, weights_digest
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS

_RECOMPUTE = dict(use_reentrant=False)  # with the same random numbers, as a method's dropout draws some


@MODELS.register_module()
class TextTower(BaseModule):
    """Text tower of CLIP with prompts as arguments.

    State-dict keys are OpenAI's: ``token_embedding.weight``,
    ``positional_embedding``, ``transformer.resblocks.*``, ``ln_final.*``,
    ``text_projection``.

    Args:
        arch: Architecture, see :func:`vlm_dense.clip.loading.load_clip`.
        pretrained: Weights, see :func:`vlm_dense.clip.loading.load_clip`.
        context_length: Keep only the first rows of the table of positions
            (DenseCLIP uses 13). Default: all.
        frozen: No gradients to the weights, always in eval mode.
        chunk_size: Sequences (classes times variants of the prefix) in one
            forward pass. More of them go in chunks; when gradients are needed,
            chunks of half the size are computed again in the backward pass,
            which bounds the memory.
        init_cfg: mmengine's.

    Raises:
        ConfigError: The tower is not causal, is not read at EOT, or has other
            blocks than CLIP's; or ``context_length`` exceeds the table.

    Examples:
        >>> tower = TextTower('tiny-vit')
        >>> ids = tower.tokenize(['a red circle', 'a blue square'])
        >>> tower(ids).shape
        torch.Size([2, 128])

        A learned context in front of two names is a prefix; it is computed
        once and gets gradients, though the tower is frozen:

        >>> names = tower.tokenize(['circle.', 'square.'])
        >>> context = torch.nn.Parameter(torch.randn(4, tower.width))
        >>> prefix = torch.cat([tower.embed(names[:1, :1])[0], context])
        >>> own = tower.embed(names[:, 1:])
        >>> embeddings = tower.encode(own, tower.find_eot(names) - 1, prefix=prefix)
        >>> embeddings.sum().backward()
        >>> embeddings.shape, context.grad.shape
        (torch.Size([2, 128]), torch.Size([4, 128]))
    """

    logit_scale: Tensor
    """Scalar, logarithm of CLIP's temperature; belongs to neither tower and is not in the state dict."""

    def __init__(
        self,
        arch: str | dict,
        pretrained: str | None = None,
        *,
        context_length: int | None = None,
        frozen: bool = True,
        chunk_size: int = 128,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self._take(loading.load_clip(arch, pretrained), arch, context_length, frozen, chunk_size)

    @classmethod
    def from_clip(
        cls,
        clip: nn.Module,
        arch: str | dict | None = None,
        *,
        context_length: int | None = None,
        frozen: bool = True,
        chunk_size: int = 128,
    ) -> TextTower:
        """Tower around the text modules (not copies) of an open_clip ``CLIP`` or ``CustomTextCLIP``.

        ``arch`` is only needed by :meth:`tokenize`.
        """
        tower = cls.__new__(cls)
        BaseModule.__init__(tower)
        tower._take(clip, arch, context_length, frozen, chunk_size)
        return tower

    def _take(self, clip, arch, context_length, frozen, chunk_size) -> None:
        text = getattr(clip, 'text', clip)  # CustomTextCLIP keeps its text tower apart
        pool = getattr(text, 'pool_type', None) or getattr(text, 'text_pool_type', None)
        causal = getattr(text, 'attn_mask', None) is not None and getattr(text, 'cls_emb', None) is None
        if pool not in ('argmax', 'eos') or not causal:
            raise ConfigError(
                f'expected a causal text tower that is read at the end-of-text token, found {type(text).__name__} with '
                f'pool_type={pool!r}{"" if causal else ", not purely causal"} ({arch!r}). Choose a CLIP architecture '
                "such as 'RN50' or 'ViT-B-16'."
            )
        table = text.positional_embedding
        if context_length is not None and not 2 <= context_length <= len(table):
            raise ConfigError(
                f"context_length must lie between 2 and the {len(table)} rows of the text tower's table of positions, "
                f'found {context_length}.'
            )
        self.arch = arch
        self.frozen = frozen
        self.chunk_size = chunk_size
        self.token_embedding = text.token_embedding
        self.positional_embedding = nn.Parameter(table.detach()[:context_length].clone())
        self.transformer = Blocks(text.transformer)
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.register_buffer('logit_scale', clip.logit_scale.detach().clone().squeeze(), persistent=False)
        # CLIP's EOT is the largest id; towers with pool_type 'eos' name it
        self._eos_id = None if pool == 'argmax' else getattr(text, 'eos_id', None) or text.text_eos_id
        self._encoded = BoundedCache()
        self.requires_grad_(not frozen)
        self.train(not frozen)

    def train(self, mode: bool = True) -> TextTower:
        """As in torch, but a frozen tower stays in eval mode."""
        return super().train(mode and not self.frozen)

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.token_embedding.weight.shape[1]

    @property
    def embed_dim(self) -> int:
        """Channels of the class embeddings, D."""
        projection = self.text_projection
        if projection is None:
            return self.width
        return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]

    @property
    def context_length(self) -> int:
        """Rows of the table of positions: the most tokens of a sequence, prefix included."""
        return self.positional_embedding.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the tokens go through the blocks (outside autocast)."""
        return self.transformer.resblocks[0].mlp.c_fc.weight.dtype

    def tokenize(self, texts: list[str], truncate: bool = False) -> Tensor:
        """Token ids ``(N, context_length)``, int64, on the CPU: SOS, the text, EOT, zeros.

        Args:
            texts: N texts.
            truncate: Truncate to the context length, with EOT at the end.

        Raises:
            ClassNamesError: A text does not fit.
        """
        return loading.tokenize(self.arch, texts, self.context_length, truncate)

    def find_eot(self, ids: Tensor) -> Tensor:
        """Place of the end-of-text token, ``(N, T)`` -> ``(N,)``."""
        return ids.argmax(-1) if self._eos_id is None else (ids == self._eos_id).int().argmax(-1)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings without positions, ``(N, T)`` -> ``(N, T, width)``."""
        return self.token_embedding(ids.to(self.token_embedding.weight.device)).to(self.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Same as :meth:`encode_tokens`."""
        return self.encode_tokens(ids)

    def encode_tokens(self, ids: Tensor, project: bool = True) -> Tensor:
        """Class embeddings of token ids.

        A frozen tower computes them without gradient and caches them until
        one of its weights changes.

        Args:
            ids: ``(N, T)`` token ids with an EOT in every row.
            project: Send them through the tower's last projection.

        Returns:
            ``(N, D)``, or ``(N, width)`` before the projection; not normalised.

        Raises:
            ClassNamesError: An EOT lies beyond ``context_length``.
        """
        ids = ids.detach().cpu()
        if not self.frozen:
            return self._encode_ids(ids, project)
        parts = ids.split(self.chunk_size)
        return self.remember(lambda: torch.cat([self._encode_ids(part, project) for part in parts]), ids, project)

    @torch.compiler.disable  # a look-up on the host, no part of a graph
    def remember(self, compute: Callable[[], Tensor], *sources: nn.Module | Tensor | Hashable) -> Tensor:
        """Result of ``compute`` without gradient; recomputed only if this tower or a source has changed.

        Args:
            compute: Encodes something with this tower.
            *sources: Further inputs of the result: modules and tensors, of which all numbers count, and plain
                values.
        """
        device = self.positional_embedding.device
        kinds = (nn.Module, Tensor)
        digest = weights_digest(self, *(each for each in sources if isinstance(each, kinds)))
        plain = (each for each in sources if not isinstance(each, kinds))
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        return self._encoded.get((digest, str(device), autocast, *plain), compute)

    def _encode_ids(self, ids: Tensor, project: bool) -> Tensor:
        eot = self.find_eot(ids)
        if torch.compiler.is_compiling():
            return self.encode(self.embed(ids[:, : self.context_length]), eot, project=project)
        same = int((ids == ids[:1]).all(0).int().cumprod(0).sum())
        shared = min(same, int(eot.min()))
        own = self.embed(ids[:, shared : int(eot.max()) + 1])
        prefix = self.embed(ids[:1, :shared])[0] if shared else None
        return self.encode(own, eot - shared, prefix=prefix, project=project)

    def token_features(self, ids: Tensor) -> Tensor:
        """Projected features at every position, not only at EOT (TaI-DPT compares captions token by token).

        Args:
            ids: ``(N, T)`` token ids; T may be shorter than ``context_length``.

        Returns:
            ``(N, T, D)``, not normalised; without gradient when frozen.

        Raises:
            ClassNamesError: T exceeds ``context_length``.
        """
        if ids.shape[1] > self.context_length:
            raise self._too_long(ids.shape[1])
        features = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            for part in ids.split(self.chunk_size):
                x = self.embed(part) + self.positional_embedding[: ids.shape[1]].to(self.dtype)
                for block in self.transformer.resblocks:
                    x = block(x, causal=True)
                features.append(self.ln_final(x))
            found, projection = torch.cat(features), self.text_projection
            if projection is None:
                return found
            return projection(found) if isinstance(projection, nn.Linear) else found @ projection

    def encode(
        self,
        embeddings: Tensor,
        eot: Tensor,
        *,
        prefix: Tensor | None = None,
        deep: Tensor | None = None,
        inserted: tuple[int, Tensor] | None = None,
        chunk_size: int | None = None,
        project: bool = True,
    ) -> Tensor:
        """Class embeddings of prompts given as embeddings.

        A sequence is the prefix followed by the class's own tokens; positions
        are added here. Put what all classes share ([SOS] and a unified
        context) into ``prefix``: it is computed once. Gradients reach
        ``embeddings``, ``prefix``, ``deep`` and ``inserted`` also when the tower
        is frozen.

        Args:
            embeddings: ``(N, T, width)`` own tokens of N classes, without
                positions. Tokens after EOT are ignored.
            eot: ``(N,)`` index of EOT within the T own tokens.
            prefix: ``(P, width)``, or ``(G, P, width)`` for G variants of all
                classes (one an image in CoCoOp, one a sample or context in
                others).
            deep: ``(J - 1, M, width)``, or ``(J - 1, G, M, width)`` with a
                prefix of G variants: rows 1..M of the hidden states, those
                right after [SOS], are replaced by ``deep[l - 1]`` before
                block l, 1 <= l < J (MaPLe, Eqs. 4-5). They lie inside the
                prefix, or without a prefix in every sequence itself.
            inserted: A block l, 0 <= l < number of blocks, and hidden states
                ``(N, M, width)`` that replace those of the first M own tokens
                of each sequence before it (TCP).
            chunk_size: Replaces the tower's.
            project: Send them through the tower's last projection; without,
                there are ``width`` channels instead of D.

        Returns:
            ``(N, D)``, or ``(G, N, D)`` for a 3-D prefix; not normalised.

        Raises:
            ClassNamesError: Prefix and own tokens up to EOT exceed
                ``context_length``.
            ConfigError: Shapes that do not go together.
        """
        compiling = torch.compiler.is_compiling()  # a graph has no values: nothing to check, no padding to leave out
        lengths = (eot.to(embeddings.device) if compiling else eot.detach().cpu()) + 1
        if not compiling:
            self._check(embeddings, lengths, prefix, deep, inserted)
        embeddings, single = embeddings.to(self.dtype), prefix is None or prefix.dim() == 2
        if prefix is not None:
            prefix = prefix.to(self.dtype).unsqueeze(0) if single else prefix.to(self.dtype)
        groups, before = (1, 0) if prefix is None else prefix.shape[:2]
        limit = chunk_size or self.chunk_size
        recompute = groups * len(lengths) > limit and torch.is_grad_enabled()
        keys_values = None
        if prefix is not None:
            if recompute and groups > 1:  # else what the backward pass keeps would grow with the images
                keys_values = checkpoint(self._prefix_keys_values, prefix, deep, **_RECOMPUTE)
            else:
                keys_values = self._prefix_keys_values(prefix, deep)
        if recompute:  # leaves room for what grows with the classes, so that the peak stays below one full chunk's
            limit = max(1, limit // 2)
        encoded = []
        for start in range(0, len(lengths), limit):
            rows = slice(start, start + limit)
            own, tokens = embeddings[rows], None if inserted is None else inserted[1][rows]
            if compiling:
                packing = Packing.with_padding(lengths[rows], own.shape[1], before)
            else:
                packing = Packing.of(lengths[rows], before, own.device)
            several = max(1, limit // len(own))
            chunk = []
            for first in range(0, groups, several):
                count = min(several, groups - first)
                kv = keys_values and [(k[first : first + count], v[first : first + count]) for k, v in keys_values]
                args = own, packing, count, before, kv, deep, None if tokens is None else (inserted[0], tokens)
                chunk.append(checkpoint(self._chunk, *args, **_RECOMPUTE) if recompute else self._chunk(*args))
            encoded.append(torch.cat(chunk))
        found = torch.cat(encoded, dim=1)
        found = self.ln_final(found[0] if single else found)
        projection = self.text_projection if project else None
        if projection is None:
            return found
        return projection(found) if isinstance(projection, nn.Linear) else found @ projection

    def _prefix_keys_values(self, prefix: Tensor, deep: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every block for prefixes (G, P, width), which go through the blocks once."""
        x = prefix + self.positional_embedding[: prefix.shape[1]].to(prefix.dtype)
        keys_values = []
        for layer, block in enumerate(self.transformer.resblocks):
            if deep is not None and 1 <= layer <= len(deep):
                rows = deep[layer - 1].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], rows, x[:, 1 + rows.shape[1] :]], dim=1)
            x, kv = block(x, causal=True, return_kv=True)
            keys_values.append(kv)
        return keys_values

    def _chunk(
        self,
        own: Tensor,
        packing: Packing,
        groups: int,
        before: int,
        keys_values: list[tuple[Tensor, Tensor]] | None,
        deep: Tensor | None,
        inserted: tuple[int, Tensor] | None,
    ) -> Tensor:
        """The last tokens (G, n, width) of n sequences behind G prefixes of ``before`` tokens, before the last norm.

        The own tokens (n, T, width) are packed and attend to the prefixes' keys and values.
        """
        blocks = self.transformer.resblocks
        longest = packing.visible.shape[-1] - before
        x = own[:, :longest] + self.positional_embedding[before : before + longest].to(own.dtype)
        x = x.flatten(0, 1).index_select(0, packing.rows).expand(groups, -1, -1)
        for layer, block in enumerate(blocks):
            if keys_values is None and deep is not None and 1 <= layer <= len(deep):
                rows = packing.starts[:, None] + torch.arange(1, 1 + deep.shape[1], device=x.device)
                x = x.index_copy(1, rows.flatten(), deep[layer - 1].to(x.dtype).repeat(len(rows), 1)[None])
            if inserted is not None and layer == inserted[0]:
                tokens = inserted[1]
                rows = packing.starts[:, None] + torch.arange(tokens.shape[1], device=x.device)
                x = x.index_copy(1, rows.flatten(), tokens.flatten(0, 1).to(x.dtype).expand(groups, -1, -1))
            kv = keys_values and keys_values[layer]
            x = block(x, packing=packing, prefix_kv=kv, last_token_only=layer == len(blocks) - 1)
        return x

    def _too_long(self, length: int) -> ClassNamesError:
        return ClassNamesError(
            f'the longest prompt has {length} tokens (start, context, class name and end), but the text tower has '
            f'{self.context_length} positions. Shorten the class name or the context, or raise context_length.'
        )

    def _check(
        self,
        embeddings: Tensor,
        lengths: Tensor,
        prefix: Tensor | None,
        deep: Tensor | None,
        inserted: tuple[int, Tensor] | None,
    ) -> None:
        """Refuse prompts that do not fit the tower or each other."""
        n, tokens, width = embeddings.shape
        if lengths.shape != (n,) or not n or lengths.min() < 1 or lengths.max() > tokens:
            raise ConfigError(
                f'expected one index of EOT below {tokens} for each of the {n} (at least one) sequences, '
                f'found {(lengths - 1).tolist()}.'
            )
        before = 0 if prefix is None else prefix.shape[-2]
        if before + int(lengths.max()) > len(self.positional_embedding):
            raise self._too_long(before + int(lengths.max()))
        layers = len(self.transformer.resblocks)
        room, groups = (before or int(lengths.min())) - 1, 0 if prefix is None or prefix.dim() == 2 else len(prefix)
        if deep is not None and (
            len(deep) >= layers or deep.shape[-2] > room or deep.dim() == 4 and deep.shape[1] != groups
        ):
            raise ConfigError(
                f'expected deep prompts for at most {layers - 1} layers of at most {room} tokens (those after the '
                f'start token{" of the prefix" if before else ""}), each (layers, tokens, width) or, with {groups} '
                f'prefixes, (layers, {groups}, tokens, width); found {tuple(deep.shape)}.'
            )
        if inserted is None:
            return
        (block, more), room = inserted, int(lengths.min()) - 1
        if not 0 <= block < layers or more.shape != (n, more.shape[1], width) or more.shape[1] > room:
            raise ConfigError(
                f'expected tokens to insert before one of the blocks 0 to {layers - 1}, at most {room} of {width} '
                f'channels for each of the {n} sequences; found block {block} and {tuple(more.shape)}.'
            )


@dataclass
class Packing:
    """Positions of the tokens of N concatenated causal sequences.

    Three sequences of 2, 4 and 1 tokens, padded and packed; ``*`` is padding::

        padded, (3, 4)      packed, (7,)
        a0 a1 *  *          a0 a1 b0 b1 b2 b3 c0
        b0 b1 b2 b3
        c0 *  *  *          rows    0 1 4 5 6 7 8              padded place of each packed token
                            padded  0 1 1 1  2 3 4 5  6 6 6 6  packed token in each padded place
                            starts  0 2 6
                            ends    1 5 6

    Linear layers run over the packed tokens. Attention needs rows of equal length, so keys and values are spread out
    by ``padded`` (the places of padding repeat the last token of their sequence, which no earlier token sees), and its
    result is gathered by ``rows``.

    Attributes:
        rows: (S,) int64, the places of the flattened padded layout (N * longest) that hold tokens.
        padded: (N * longest,) int64, the packed token of each padded place.
        starts: (N,) int64, the packed place of each sequence's first token.
        ends: (N,) int64, the packed place of each sequence's last token.
        visible: (N, 1, 1, P + longest) bool, the keys that a last token sees; the shared prefix of P tokens is first.
    """

    rows: Tensor
    padded: Tensor
    starts: Tensor
    ends: Tensor
    visible: Tensor

    @classmethod
    def of(cls, lengths: Tensor, prefix_length: int, device: torch.device) -> Packing:
        """Plan that leaves out all padding.

        Args:
            lengths: (N,) int64 on the CPU, tokens of each sequence.
            prefix_length: P, tokens of the prefix that all sequences see.
            device: Where the plan is needed.
        """
        longest = int(lengths.max())
        own = (torch.arange(longest) < lengths[:, None]).flatten()
        ends = lengths.cumsum(0) - 1
        visible = torch.arange(prefix_length + longest) < prefix_length + lengths[:, None]
        plan = own.nonzero().squeeze(1), own.cumsum(0) - 1, ends - lengths + 1, ends, visible[:, None, None]
        return cls(*(t.to(device, non_blocking=True) for t in plan))

    @classmethod
    def with_padding(cls, lengths: Tensor, longest: int, prefix_length: int) -> Packing:
        """Plan that leaves nothing out, for ``torch.compile``: its shapes do not depend on the values of ``lengths``.

        Args:
            lengths: (N,) int64 on any device, tokens of each sequence.
            longest: Tokens of each padded sequence.
            prefix_length: P, as in :meth:`of`.
        """
        places = torch.arange(len(lengths) * longest, device=lengths.device)
        starts = torch.arange(len(lengths), device=lengths.device) * longest
        visible = torch.arange(prefix_length + longest, device=lengths.device) < prefix_length + lengths[:, None]
        return cls(places, places, starts, starts + lengths - 1, visible[:, None, None])
