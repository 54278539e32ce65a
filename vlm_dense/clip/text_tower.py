"""CLIP's text tower: token ids or prompt embeddings -> class embeddings.

A tower that is causal and is read at the end-of-text token (EOT) allows four
savings that change nothing beyond rounding:

1. tokens after a sequence's EOT are not computed, and the rest goes through
   the linear layers without padding; in the last layer only the EOT rows are
   queried;
2. tokens that all sequences share at the front go through the layers once,
   and the sequences' own tokens attend to their keys and values;
3. with many sequences, chunks are recomputed in the backward pass, so that
   memory does not grow with the number of classes;
4. embeddings of token ids by a frozen tower are cached until its weights change.

Towers of the other kinds (:class:`~vlm_dense.clip.text_kinds.TextKind`) run
whole sequences, filled up with the tokenizer's padding as in their training;
of the first saving they keep the one row in the last layer, and 3 and 4.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip import loading
from vlm_dense.clip.blocks import Blocks
from vlm_dense.clip.digest import BoundedCache, weights_digest
from vlm_dense.clip.huggingface import HuggingFaceBlocks
from vlm_dense.clip.text_kinds import TextKind, kind_of
from vlm_dense.clip.tips import TIPSBlocks, TIPSText
from vlm_dense.clip.tokenizer import Tokenizer, build_tokenizer
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS

_HUGGING_FACE_LENGTH = 77  # of open_clip's tokenizers
_RECOMPUTE = dict(use_reentrant=False)  # with the same random numbers, as a method's dropout draws some


@MODELS.register_module()
class TextTower(BaseModule):
    """Text tower of CLIP with prompts as arguments.

    State-dict keys are OpenAI's: ``token_embedding.weight``,
    ``positional_embedding``, ``transformer.resblocks.*``, ``ln_final.*``,
    ``text_projection``; CoCa's has ``cls_emb`` as well.

    Args:
        arch: Architecture, see :func:`vlm_dense.clip.loading.load_clip`.
        pretrained: Weights, see :func:`vlm_dense.clip.loading.load_clip`.
        context_length: Keep only the first rows of the table of positions
            (DenseCLIP uses 13); of causal towers only. Default: all.
        tokenizer: Instead of the architecture's own: the folder with its
            files, or see :func:`vlm_dense.clip.tokenizer.build_tokenizer`.
        frozen: No gradients to the weights, always in eval mode.
        chunk_size: Sequences (classes times variants of the prefix) in one
            forward pass. More of them go in chunks; when gradients are needed,
            chunks of half the size are computed again in the backward pass,
            which bounds the memory.
        init_cfg: mmengine's.

    Raises:
        ConfigError: The tower is of no kind of
            :class:`~vlm_dense.clip.text_kinds.TextKind`, or has other blocks
            than CLIP's; or ``context_length`` exceeds the table, or would cut
            that of a tower that reads the whole context.

    Attributes:
        context_length: The most tokens of a sequence, prefix included.
        longest: What ``context_length`` can be at most.
        kind: What the tower reads; says which savings are exact in it.

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

    logit_bias: Tensor | None
    """Scalar added to the scaled cosines of towers that were trained with a sigmoid (SigLIP), else ``None``."""

    def __init__(
        self,
        arch: str | dict,
        pretrained: str | None = None,
        *,
        context_length: int | None = None,
        tokenizer: str | os.PathLike | Mapping | Tokenizer | None = None,
        frozen: bool = True,
        chunk_size: int = 128,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self._take(loading.load_text(arch, pretrained), arch, context_length, tokenizer, frozen, chunk_size)

    @classmethod
    def from_clip(
        cls,
        clip: nn.Module,
        arch: str | dict | None = None,
        *,
        context_length: int | None = None,
        tokenizer: str | os.PathLike | Mapping | Tokenizer | None = None,
        frozen: bool = True,
        chunk_size: int = 128,
    ) -> TextTower:
        """Tower around the text modules (not copies) of an open_clip ``CLIP``, ``CustomTextCLIP`` or ``CoCa``.

        ``arch`` only says which tokenizer it has.
        """
        tower = cls.__new__(cls)
        BaseModule.__init__(tower)
        tower._take(clip, arch, context_length, tokenizer, frozen, chunk_size)
        return tower

    def _take(self, clip, arch, context_length, tokenizer, frozen, chunk_size) -> None:
        self.arch = arch
        self.frozen = frozen
        self.chunk_size = chunk_size
        self._tokenizer = tokenizer
        self._take_modules(getattr(clip, 'text', clip), context_length)  # CustomTextCLIP and CoCa keep theirs apart
        for name in ('logit_scale', 'logit_bias'):
            value = getattr(clip, name, None)
            value = value if value is None else value.detach().clone().squeeze()
            self.register_buffer(name, value, persistent=False)
        self._encoded = BoundedCache()
        self.requires_grad_(not frozen)
        self.train(not frozen)

    def _take_modules(self, text: nn.Module, context_length: int | None) -> None:
        self.kind: TextKind = kind_of(text)
        if self.kind.reads == 'pooler':
            self.ln_final = nn.Identity()
            if isinstance(text, TIPSText):
                self.token_embedding, self.transformer = text.token_embedding, TIPSBlocks(text)
                self.text_projection = None
            else:
                self.token_embedding = text.transformer.get_input_embeddings()
                self.transformer, self.text_projection = HuggingFaceBlocks(text), text.proj
            most = self.transformer.positions
            self.context_length = min(_HUGGING_FACE_LENGTH, most) if context_length is None else context_length
            self._check_length(most)
            return
        table, class_token = text.positional_embedding, self.kind.reads == 'class token'
        most = len(table) - class_token
        self.context_length = most if context_length is None else context_length
        self._check_length(most)
        self.token_embedding = text.token_embedding
        self.positional_embedding = nn.Parameter(table.detach()[: self.context_length + class_token].clone())
        self.transformer = Blocks(text.transformer)
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        if class_token:
            self.cls_emb = text.cls_emb

    def _check_length(self, most: int) -> None:
        """Refuse a context that is longer than the tower's, or shorter where the tower reads all of it."""
        self.longest = most
        if not 2 <= self.context_length <= most:
            raise ConfigError(
                f"context_length must lie between 2 and the {most} rows of the text tower's table of positions, "
                f'found {self.context_length}.'
            )
        if self.context_length < most and (self.kind.full or self.kind.reads == 'class token'):
            why = 'reads padding too' if self.kind.full else 'has its class token behind them'
            raise ConfigError(
                f'context_length={self.context_length} cuts the context of {most} tokens with which the text tower of '
                f'{self.arch!r} was trained, and it {why}. Leave context_length out of text_encoder.'
            )

    def train(self, mode: bool = True) -> TextTower:
        """As in torch, but a frozen tower stays in eval mode."""
        return super().train(mode and not self.frozen)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tower's tokenizer, built when it is first needed.

        Raises:
            MissingLibraryError, WeightsNotFoundError: see
                :class:`~vlm_dense.clip.tokenizer.HuggingFaceTokenizer`.
        """
        return build_tokenizer(self.arch, self._tokenizer)

    @property
    def num_start(self) -> int:
        """Start tokens in front of every text: 1, or 0 in SigLIP's towers, where a learned context is in front."""
        return len(self.tokenizer.start)

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks."""
        return self.transformer.resblocks

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.token_embedding.weight.shape[1]

    @property
    def embed_dim(self) -> int:
        """Channels of the class embeddings, D."""
        projection = self.text_projection
        if isinstance(projection, nn.Sequential):
            projection = projection[-1]
        if projection is None or isinstance(projection, nn.Identity):
            return self.width
        return projection.shape[1] if isinstance(projection, Tensor) else projection.out_features

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the tokens go through the blocks (outside autocast)."""
        blocks = self.transformer
        return blocks.dtype if isinstance(blocks, HuggingFaceBlocks) else blocks.resblocks[0].mlp.c_fc.weight.dtype

    def tokenize(self, texts: list[str], truncate: bool = False) -> Tensor:
        """Token ids ``(N, context_length)``, int64, on the CPU, by :attr:`tokenizer`: SOS, text, EOT, padding.

        Args:
            texts: N texts.
            truncate: Truncate to the context length, with EOT at the end.

        Raises:
            ClassNamesError: A text does not fit.
        """
        return self.tokenizer(texts, self.context_length, truncate)

    def find_eot(self, ids: Tensor) -> Tensor:
        """Place of the token that ends each text, the last place where there is none, ``(N, T)`` -> ``(N,)``."""
        ends = self.kind.ends
        if ends == 'largest':
            return ids.argmax(-1)
        if ends == 'padding':
            return (ids != self.transformer.padding).cumsum(-1).argmax(-1)
        found = ids == (self.tokenizer.end[-1] if ends == 'tokenizer' else ends)
        return found.int().argmax(-1).where(found.any(-1), ids.shape[1] - 1)

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
            ids: ``(N, T)`` token ids with an EOT in every row. Padding has to
                be the tokenizer's, unless the tower is causal.
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
        device = self.logit_scale.device
        kinds = (nn.Module, Tensor)
        digest = weights_digest(self, *(each for each in sources if isinstance(each, kinds)))
        plain = (each for each in sources if not isinstance(each, kinds))
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        return self._encoded.get((digest, str(device), autocast, *plain), compute)

    def _encode_ids(self, ids: Tensor, project: bool) -> Tensor:
        if self.kind.reads == 'last' and ids.shape[1] == self.context_length:  # wherever the text ends
            return self.encode(self.embed(ids), torch.full((len(ids),), ids.shape[1] - 1), project=project)
        eot = self.find_eot(ids)
        if not self.kind.shares:
            return self.encode(self.embed(ids), eot, project=project)
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
                features.append(self._every_token(self.embed(part), self.find_eot(part) + 1))
            return self._project(torch.cat(features))

    def _every_token(self, x: Tensor, lengths: Tensor) -> Tensor:
        """All tokens (N, T, width) after the last norm, of tokens without positions in texts of these lengths."""
        if not self.kind.shares:
            if self.kind.reads == 'class token':  # tokens behind the end are asked for as well
                lengths = torch.full_like(lengths, x.shape[1])
            return self.ln_final(self._whole(x, lengths, every=True)[0, :, : x.shape[1]])
        x = x + self.positional_embedding[: x.shape[1]].to(x.dtype)
        for block in self.transformer.resblocks:
            x = block(x, causal=True)
        return self.ln_final(x)

    def _project(self, found: Tensor) -> Tensor:
        projection = self.text_projection
        if projection is None:
            return found
        return found @ projection if isinstance(projection, Tensor) else projection(found)

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
                positions. Tokens after EOT are ignored in a causal tower; the
                others read them, and they have to be embeddings of padding.
                What is missing to the tower's context is filled with it, and
                what is too much is cut.
            eot: ``(N,)`` index of EOT within the T own tokens.
            prefix: ``(P, width)``, or ``(G, P, width)`` for G variants of all
                classes (one an image in CoCoOp, one a sample or context in
                others).
            deep: ``(J - 1, M, width)``, or ``(J - 1, G, M, width)`` with a
                prefix of G variants: rows 1..M of the hidden states, those
                right after [SOS] (0..M-1 in towers without it), are replaced
                by ``deep[l - 1]`` before block l, 1 <= l < J (MaPLe, Eqs.
                4-5). They lie inside the prefix, or without a prefix in every
                sequence itself.
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
        if prefix is not None and self.kind.shares:
            if recompute and groups > 1:  # else what the backward pass keeps would grow with the images
                keys_values = checkpoint(self._prefix_keys_values, prefix, deep, **_RECOMPUTE)
            else:
                keys_values = self._prefix_keys_values(prefix, deep)
        if recompute:  # leaves room for what grows with the classes, so that the peak stays below one full chunk's
            limit = max(1, limit // 2)
        encoded = []
        for start in range(0, len(lengths), limit):
            rows = slice(start, start + limit)
            own, tokens = embeddings[rows], None if inserted is None else (inserted[0], inserted[1][rows])
            if not self.kind.shares:
                packing = None
            elif compiling:
                packing = Packing.with_padding(lengths[rows], own.shape[1], before)
            else:
                packing = Packing.of(lengths[rows], before, own.device)
            several = max(1, limit // len(own))
            chunk = []
            for first in range(0, groups, several):
                part = slice(first, min(first + several, groups))
                if packing is not None:
                    kv = keys_values and [(k[part], v[part]) for k, v in keys_values]
                    run, args = self._chunk, (own, packing, part.stop - first, before, kv, deep, tokens)
                else:
                    front = None if prefix is None else prefix[part]
                    more = deep[:, part] if deep is not None and deep.dim() == 4 else deep
                    run, args = self._whole, (own, lengths[rows], front, more, tokens)
                chunk.append(checkpoint(run, *args, **_RECOMPUTE) if recompute else run(*args))
            encoded.append(torch.cat(chunk))
        found = torch.cat(encoded, dim=1)
        found = self.ln_final(found[0] if single else found)
        return self._project(found) if project else found

    def _prefix_keys_values(self, prefix: Tensor, deep: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every block for prefixes (G, P, width), which go through the blocks once."""
        x = prefix + self.positional_embedding[: prefix.shape[1]].to(prefix.dtype)
        keys_values = []
        for layer, block in enumerate(self.transformer.resblocks):
            if deep is not None and 1 <= layer <= len(deep):
                x = _replace(x, self.num_start, deep[layer - 1].expand(len(x), -1, -1))
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
                places = torch.arange(deep.shape[1], device=x.device) + self.num_start
                rows = packing.starts[:, None] + places
                x = x.index_copy(1, rows.flatten(), deep[layer - 1].to(x.dtype).repeat(len(rows), 1)[None])
            if inserted is not None and layer == inserted[0]:
                tokens = inserted[1]
                rows = packing.starts[:, None] + torch.arange(tokens.shape[1], device=x.device)
                x = x.index_copy(1, rows.flatten(), tokens.flatten(0, 1).to(x.dtype).expand(groups, -1, -1))
            kv = keys_values and keys_values[layer]
            x = block(x, packing=packing, prefix_kv=kv, last_token_only=layer == len(blocks) - 1)
        return x

    def _whole(
        self,
        own: Tensor,
        lengths: Tensor,
        prefix: Tensor | None = None,
        deep: Tensor | None = None,
        inserted: tuple[int, Tensor] | None = None,
        every: bool = False,
    ) -> Tensor:
        """As :meth:`_chunk`, of towers that read whole sequences.

        Args:
            own: (n, T, width).
            lengths: Own tokens of each sequence up to its end, (n,).
            prefix: (G, P, width), which stand in every sequence.
            deep, inserted: As in :meth:`encode`, of this chunk.
            every: All tokens (G, n, L, width) instead of those that are read, (G, n, width).
        """
        before, groups = (0, 1) if prefix is None else (prefix.shape[1], len(prefix))
        x, lengths, start = join(own, prefix), (lengths + before).repeat(groups), 0 if deep is None else self.num_start
        if self.kind.reads == 'pooler':
            edit = None
            if deep is not None or inserted is not None:
                edit = partial(exchange, deep=deep, start=start, inserted=inserted, before=before)
            return self.transformer(x, lengths, edit, every).unflatten(0, (groups, -1))
        x, mask, read = self._sequences(x, lengths)
        for layer, block in enumerate(self.blocks):
            x = exchange(x, layer, deep, start, inserted, before)
            if every or layer < len(self.blocks) - 1:
                x = block(x, attn_mask=mask)
            else:
                x = block(x, attn_mask=None if mask is None else mask[..., -1:, :], query=read).squeeze(1)
        return x.unflatten(0, (groups, -1))

    def _sequences(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Tokens (N, T, width) filled up and with positions, (N, L, width), which see each other, which are read."""
        length, class_token = self.context_length, self.kind.reads == 'class token'
        if class_token and not torch.compiler.is_compiling():  # it sees one position of padding, not more
            length = min(length, int(lengths.max()) + 1)
        padding = self.embed(torch.tensor([self.tokenizer.padding])) if class_token or x.shape[1] < length else None
        if x.shape[1] < length:
            x = torch.cat([x, padding.expand(len(x), length - x.shape[1], -1)], dim=1)
        x, table = x[:, :length], self.positional_embedding.to(x.dtype)
        if not class_token:
            read = torch.full_like(lengths, length) if self.kind.reads == 'last' else lengths
            return x + table[:length], None, (read - 1).to(x.device)
        # CoCa's weights were trained with the mask of padding one position too far: each token hides the next one
        visible = F.pad((x != padding).any(-1), (1, 0), value=True)
        causal = torch.ones(length + 1, length + 1, dtype=torch.bool, device=x.device).tril()
        x = torch.cat([x, self.cls_emb.to(x.dtype).expand(len(x), 1, -1)], dim=1)
        x = x + torch.cat([table[:length], table[-1:]])
        return x, causal & visible[:, None, None], torch.full_like(lengths, length).to(x.device)

    def _too_long(self, length: int) -> ClassNamesError:
        return ClassNamesError(
            f'the longest prompt has {length} tokens (start, context, class name and end), but the text tower has '
            f'{self.context_length} positions. Shorten the class name or the context'
            + (f', or raise context_length, up to {self.longest}.' if self.context_length < self.longest else '.')
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
        if before + int(lengths.max()) > self.context_length:
            raise self._too_long(before + int(lengths.max()))
        layers = len(self.blocks)
        start = 0 if deep is None else self.num_start
        room, groups = (before or int(lengths.min())) - start, 0 if prefix is None or prefix.dim() == 2 else len(prefix)
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


def join(own: Tensor, prefix: Tensor | None) -> Tensor:
    """Tokens (n, T, width) behind each of G prefixes (G, P, width): (G * n, P + T, width)."""
    if prefix is None:
        return own
    n, groups = len(own), len(prefix)
    return torch.cat([prefix.repeat_interleave(n, dim=0), own.repeat(groups, 1, 1)], dim=1)


def exchange(
    x: Tensor, layer: int, deep: Tensor | None, start: int, inserted: tuple[int, Tensor] | None, before: int
) -> Tensor:
    """Hidden states (G * n, L, width) in front of a block, with those of deep prompts and inserted tokens.

    Args:
        x: The states, the n sequences of a group one after the other.
        layer: The block.
        deep: (J - 1, M, width) or (J - 1, G, M, width), see :meth:`TextTower.encode`.
        start: Where deep prompts begin.
        inserted: A block and (n, M, width), see :meth:`TextTower.encode`.
        before: Where the own tokens of a sequence begin.
    """
    if deep is not None and 1 <= layer <= len(deep):
        rows = deep[layer - 1]
        rows = rows.expand(len(x), -1, -1) if rows.dim() == 2 else rows.repeat_interleave(len(x) // len(rows), dim=0)
        x = _replace(x, start, rows)
    if inserted is not None and layer == inserted[0]:
        x = _replace(x, before, inserted[1].repeat(len(x) // len(inserted[1]), 1, 1))
    return x


def _replace(x: Tensor, start: int, rows: Tensor) -> Tensor:
    """Tokens (N, L, width) with (N, M, width) in the places from ``start`` on."""
    return torch.cat([x[:, :start], rows.to(x.dtype), x[:, start + rows.shape[1] :]], dim=1)


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
