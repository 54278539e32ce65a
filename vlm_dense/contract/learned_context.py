"""Learned vectors in the place of words: what CoOp and all that follow it share.

"Learning to Prompt for Vision-Language Models", IJCV 2022, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm_dense.clip.loading import tokenize
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.release import Pretrained
from vlm_dense.contract.text_prompt import TextPrompt
from vlm_dense.errors import ClassNamesError, ConfigError

POSITIONS = ('end', 'middle', 'front')


class LearnedContext(Pretrained, TextPrompt):
    """``[SOS] v_1 .. v_M name . [EOT]`` with M learned vectors; the name may stand elsewhere.

    A method decides which vectors go to :meth:`encode`, :attr:`ctx` or something computed from it; where they go in
    the prompt is written here only. Vectors that all classes share and that stand before the name are computed once,
    not once a class.

    Args:
        class_names, text_tower, init_cfg: See :class:`TextPrompt`. ``_`` in a name becomes a space.
        num_contexts: M. Default: as many as there are ``words``, else 16. With fewer vectors than words, the last
            words stay as they are.
        words: Initial words; their embeddings are the initial vectors. ``[CLS]`` among them is the place of the name.
        position: Of the name: at the ``'end'``, in the ``'middle'`` (after M // 2 vectors) or in ``'front'``.
        class_specific: Each class has vectors of its own.
        std: Standard deviation of the initial vectors where there are no ``words``.
        ending: What follows the name.

    Attributes:
        shared_states: The vectors that all classes share have the same hidden states for all. A method that makes
            them differ sets this to ``False``; they are then computed for each class.
        ctx: (M, d) vectors, or (K, M, d) if ``class_specific``; the name in official checkpoints.
        token_ids: (K, T) ids of the prompts, ``X`` in the place of vectors without words.

    Raises:
        ClassNamesError: a prompt longer than the tower's ``context_length``.
        ConfigError: an unknown ``position``, or a number of vectors that cannot be.
    """

    shared_states = True

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_contexts: int | None = None,
        words: str | None = None,
        position: str = 'end',
        class_specific: bool = False,
        std: float = 0.02,
        ending: str = '.',
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        kind = type(self).__name__
        if position not in POSITIONS:
            raise ConfigError(f'{kind}: position must be one of {POSITIONS}, found {position!r}.')
        template = words.replace('_', ' ').split() if words else ['X'] * (16 if num_contexts is None else num_contexts)
        before = template.index('[CLS]') if '[CLS]' in template else None
        if before is not None:
            template.remove('[CLS]')
        self.num_contexts = len(template) if num_contexts is None else num_contexts
        if not 1 <= self.num_contexts <= len(template):
            most = f', at most as many as there are words in {words!r}' if words else ''
            raise ConfigError(f'{kind}: num_contexts must be at least 1{most}; found {num_contexts}.')
        self.class_specific = class_specific
        names = [name.replace('_', ' ') for name in self.class_names]
        ids = self._tokenize(text_tower, [' '.join([*template, f'{name}{ending}']) for name in names], len(template))
        self.register_buffer('token_ids', ids, persistent=False)
        self._before = dict(end=self.num_contexts, middle=self.num_contexts // 2, front=0)[position]
        self._before = self._before if before is None else min(before, self.num_contexts)
        self._shared = self._before if self.shared_states and not class_specific else 0
        self.register_buffer('_order', self._layout(text_tower, names), persistent=False)
        shape = (len(names), 1, 1) if class_specific else (1, 1)
        if words:
            vectors = text_tower.embed(ids[0, 1 : 1 + self.num_contexts]).detach().float().cpu().repeat(*shape)
        else:
            vectors = std * torch.randn(*shape[:-2], self.num_contexts, text_tower.width)
        self.ctx = nn.Parameter(vectors)
        self._register_load_state_dict_pre_hook(self._leave_out_rebuilt)

    def _tokenize(self, text_tower: TextTower, prompts: list[str], context: int) -> Tensor:
        try:
            ids = text_tower.tokenize(prompts)
        except ClassNamesError as error:
            raise ClassNamesError(
                f"{type(self).__name__}: {error} The context takes {context} of them; the limit is text_encoder's "
                'context_length, up to 77 for CLIP.'
            ) from error
        return ids[:, : int(text_tower.find_eot(ids).max()) + 1]

    def _layout(self, text_tower: TextTower, names: list[str]) -> Tensor:
        """Place of each token of a prompt in its parts: the M vectors, then the tokens that follow them in the text.

        With M = 2 vectors v and the name in the middle, the rows of 'red car' and 'sky' are, ``*`` being padding::

            parts     v1 v2 red car  .   EOT     v1 v2 sky .   EOT  *
            index     0  1   2   3   4    5      0  1   2  3    4   5
            prompt    v1 red car v2  .   EOT     v1 sky v2 .   EOT  *
            row       0   2   3  1   4    5      0   2  1  3    4   5

        Vectors that are shared and stand in front are left out of the rows: the tower computes them once.
        """
        m, total = self.num_contexts, self.token_ids.shape[1] - 1
        lengths = text_tower.find_eot(tokenize(text_tower.arch, names)) - 1
        rows = []
        for n in lengths.tolist():
            name, rest = range(m, m + n), range(m + n, total)
            rows.append([*range(self._before), *name, *range(self._before, m), *rest])
        return torch.tensor(rows)[:, self._shared :]

    # --- the prompt in the tower ----------------------------------------------------------------------------------

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D), or (B, K, D) if the context depends on the image."""
        return self.encode(text_tower, self.context(image_features), classes)

    def context(self, image_features: Tensor | None = None) -> Tensor:
        """The vectors of this iteration, see :meth:`encode`; here those that are learned."""
        return self.ctx

    def encode(
        self,
        text_tower: TextTower,
        context: Tensor,
        classes: Tensor | None = None,
        deep: Tensor | None = None,
        inserted: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        """Class embeddings of prompts with these vectors.

        Args:
            text_tower: The tower.
            context: (M, d) for all classes, or (K, M, d) if ``class_specific``. Also, with the name at the end,
                (G, M, d) for G variants of all prompts.
            classes: int64 indices (k,) of the classes to encode, default all K.
            deep: Hidden states that replace those of the vectors before later blocks, see :meth:`TextTower.encode`;
                the name must stand at the end.
            inserted: What replaces the first tokens of each class before a block, see :meth:`TextTower.encode`; the
                method must not have ``shared_states``.

        Returns:
            (K, D), or (G, K, D) for G variants; not normalised.
        """
        token_ids, order = self.token_ids, self._order
        if classes is not None:
            token_ids, order = token_ids[classes], order[classes]
            context = context[classes] if self.class_specific else context
        tokens = text_tower.embed(token_ids)
        start, words = tokens[0, :1], tokens[:, 1 + self.num_contexts :]
        end = text_tower.find_eot(token_ids) - 1 - self._shared
        prefix = context[..., : self._shared, :]
        prefix = torch.cat([start.expand(*prefix.shape[:-2], 1, -1), prefix], dim=-2) if self._shared else start
        if self._shared < self.num_contexts:
            parts = torch.cat([context.expand(len(words), -1, -1), words], dim=1)
            words = parts.gather(1, order[..., None].expand(-1, -1, parts.shape[2]))
        return text_tower.encode(words, end, prefix=prefix, deep=deep, inserted=inserted)

    # --- official checkpoints -------------------------------------------------------------------------------------

    def _leave_out_rebuilt(self, state_dict: dict, prefix: str, *args) -> None:
        for key in [k for k in state_dict if k.startswith(tuple(prefix + name for name in self.ignored_prefixes))]:
            del state_dict[key]

    def describe_shapes(self) -> str:
        """Number and width of the vectors."""
        whose = f'for each of its {len(self.class_names)} classes' if self.class_specific else 'that all classes share'
        return (
            f'This {type(self).__name__} has {self.num_contexts} vectors {whose}, with the {self.ctx.shape[-1]} '
            'channels of its text tower.'
        )


class WiderContext(LearnedContext):
    """Learned context whose own loss looks at further names, encoded in the same pass as the classes.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        loss_names: Names of the loss; classes among them are encoded once.
        **kwargs: Of :class:`LearnedContext`, but for ``class_specific``.

    Attributes:
        loss_names: Places of these names among all names that are encoded, int64.
        loss_embeddings: Theirs of this iteration, as :meth:`encode` gives them.
    """

    loss_embeddings: Tensor | None = None

    def __init__(self, class_names: Sequence[str], text_tower: TextTower, loss_names: Sequence[str], **kwargs: Any):
        further = [name for name in dict.fromkeys(loss_names) if name not in class_names]
        super().__init__([*class_names, *further], text_tower, **kwargs)
        places = torch.tensor([self.class_names.index(name) for name in loss_names], dtype=torch.int64)
        self.register_buffer('loss_names', places, persistent=False)
        self.class_names = tuple(class_names)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        if classes is None:
            classes = torch.arange(len(self.class_names), device=self.token_ids.device)
        if not self.training:
            return self.encode(text_tower, self.context(image_features), classes)
        embeddings = self.encode(text_tower, self.context(image_features))
        self.loss_embeddings = embeddings[self.loss_names]
        return embeddings[classes]
