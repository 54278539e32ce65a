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
4. what a frozen tower says of token ids is kept until its weights change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.clip import loading
from vlm_dense.clip.blocks import Blocks
from vlm_dense.clip.causal_pass import CausalPass
from vlm_dense.clip.digest import BoundedCache, precision, weights_digest
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS


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
        return self.transformer.resblocks[0].dtype

    def tokenize(self, texts: list[str], truncate: bool = False) -> Tensor:
        """Token ids ``(N, context_length)``, int64, on the CPU: SOS, the text, EOT, zeros.

        Args:
            texts: N texts.
            truncate: Cut what does not fit, and put EOT at the end.

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

        A frozen tower computes them without gradient and remembers them until
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
        """What ``compute`` gives, without gradient; computed again only if this tower or a source has changed.

        Args:
            compute: Encodes something with this tower.
            *sources: What else the result follows from: modules and tensors, of which all numbers count, and plain
                values.
        """
        device = self.positional_embedding.device
        kinds = (nn.Module, Tensor)
        digest = weights_digest(self, *(each for each in sources if isinstance(each, kinds)))
        plain = (each for each in sources if not isinstance(each, kinds))
        return self._encoded.get((digest, str(device), precision(device), *plain), compute)

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
        self._check_length(ids.shape[1])
        features = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            for part in ids.split(self.chunk_size):
                x = self.embed(part) + self.positional_embedding[: ids.shape[1]].to(self.dtype)
                for block in self.transformer.resblocks:
                    x = block(x, causal=True)
                features.append(self._project(x))
            return torch.cat(features)

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
                there are ``width`` channels in the place of D.

        Returns:
            ``(N, D)``, or ``(G, N, D)`` for a 3-D prefix; not normalised.

        Raises:
            ClassNamesError: Prefix and own tokens up to EOT exceed
                ``context_length``.
            ConfigError: Shapes that do not go together.
        """
        if torch.compiler.is_compiling():  # a graph has no values: nothing to check, no padding to leave out
            lengths = eot.to(embeddings.device) + 1
        else:
            lengths = eot.detach().cpu() + 1
            self._check_prompts(embeddings, lengths, prefix, deep)
            self._check_inserted(embeddings, lengths, inserted)
        single = prefix is None or prefix.dim() == 2
        if prefix is not None:
            prefix = prefix.to(self.dtype).unsqueeze(0) if single else prefix.to(self.dtype)
        run = CausalPass(
            blocks=self.transformer.resblocks,
            positions=self.positional_embedding,
            finish=self._project if project else self.ln_final,
            chunk_size=chunk_size or self.chunk_size,
            deep=deep,
            inserted=inserted,
        )
        encoded = run(embeddings.to(self.dtype), lengths, prefix)
        return encoded[0] if single else encoded

    def _check_length(self, length: int) -> None:
        if length > self.context_length:
            raise ClassNamesError(
                f'the longest prompt has {length} tokens (start, context, class name and end), but the text tower has '
                f'{self.context_length} positions. Shorten the class name or the context, or raise context_length.'
            )

    def _check_prompts(self, embeddings: Tensor, lengths: Tensor, prefix: Tensor | None, deep: Tensor | None) -> None:
        n, tokens, _ = embeddings.shape
        if lengths.shape != (n,) or not n or lengths.min() < 1 or lengths.max() > tokens:
            raise ConfigError(
                f'expected one index of EOT below {tokens} for each of the {n} (at least one) sequences, '
                f'found {(lengths - 1).tolist()}.'
            )
        before = 0 if prefix is None else prefix.shape[-2]
        self._check_length(before + int(lengths.max()))
        if deep is None:
            return
        room = (before or int(lengths.min())) - 1
        layers = len(self.transformer.resblocks)
        groups = 0 if prefix is None or prefix.dim() == 2 else len(prefix)
        if len(deep) >= layers or deep.shape[-2] > room or deep.dim() == 4 and deep.shape[1] != groups:
            raise ConfigError(
                f'expected deep prompts for at most {layers - 1} layers of at most {room} tokens (those after the '
                f'start token{" of the prefix" if before else ""}), each (layers, tokens, width) or, with {groups} '
                f'prefixes, (layers, {groups}, tokens, width); found {tuple(deep.shape)}.'
            )

    def _check_inserted(self, embeddings: Tensor, lengths: Tensor, inserted: tuple[int, Tensor] | None) -> None:
        if inserted is None:
            return
        block, tokens = inserted
        (n, _, width), room, blocks = embeddings.shape, int(lengths.min()) - 1, len(self.transformer.resblocks)
        if not 0 <= block < blocks or tokens.shape != (n, tokens.shape[1], width) or tokens.shape[1] > room:
            raise ConfigError(
                f'expected tokens to insert before one of the blocks 0 to {blocks - 1}, at most {room} of {width} '
                f'channels for each of the {n} sequences; found block {block} and {tuple(tokens.shape)}.'
            )

    def _project(self, x: Tensor) -> Tensor:
        x = self.ln_final(x)
        if self.text_projection is None:
            return x
        return self.text_projection(x) if isinstance(self.text_projection, nn.Linear) else x @ self.text_projection
