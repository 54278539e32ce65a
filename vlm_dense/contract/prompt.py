"""The prompt: class names in, class embeddings out. See docs/contract.md.

:class:`TextPrompt` is the role; :class:`LearnedContext` are learned vectors instead of words, the base of CoOp
("Learning to Prompt for Vision-Language Models", IJCV 2022, section 3.2) and its successors;
:class:`TemplateReference` is the hand-written prompt that many of them are compared with;
:class:`PrecomputedEmbeddings` needs no text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.release import load_release
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.vocabulary.templates import as_templates

POSITIONS = ('end', 'middle', 'front')
_RENAMED = dict(directions='classifier_weights', combine='reduce_variants')
"""Older names of methods; a subclass that overrides one of them overrides the method of today."""


class TextPrompt(BaseModule):
    """Base of all text prompts.

    A task (segmentor, classifier, detector) builds the text tower once, builds the prompt with
    ``MODELS.build(cfg, default_args=dict(class_names=..., text_tower=...))`` and calls it when it needs class
    embeddings. The prompt keeps its own parameters only; the tower belongs to the task and is passed at each call.

    Values that follow from the class names are in buffers that are not persistent. So the state dict of a prompt loads
    into one for other names, unless each class has parameters of its own; then the shapes differ and it is refused.

    Args:
        class_names: Names in label order.
        text_tower: The tower that will encode the prompts; gives widths, tokens and initial word embeddings.
        init_cfg: mmengine's.

    Attributes:
        image_conditioned: The embeddings depend on the image; then ``forward`` gets image features and returns one
            set of embeddings an image, and nothing is cached at test time.
        num_variants: V prompts of each class, samples or members of an ensemble; ``None`` for one without an axis.
        needs_tower: Whether ``forward`` runs the text tower, so that a task caches its result.
    """

    image_conditioned = False
    needs_tower = True
    num_variants: int | None = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for old, new in _RENAMED.items():
            if old in vars(cls) and new not in vars(cls):
                setattr(cls, new, vars(cls)[old])

    def __init__(self, class_names: Sequence[str], text_tower: TextTower | None, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        if not class_names:
            raise ClassNamesError('A text prompt needs at least one class name, found an empty list.')
        self.class_names = tuple(class_names)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings, not normalised.

        Args:
            text_tower: The tower given at construction.
            image_features: (B, D) global features, not normalised; only used when ``image_conditioned``.
            classes: int64 indices (k,) of the classes to encode, default all K.

        Returns:
            (K, D), or (B, K, D) when ``image_conditioned``; with ``num_variants`` (V, K, D) or (B, V, K, D).
        """
        raise NotImplementedError

    def classifier_weights(self, class_embeddings: Tensor) -> Tensor:
        """Classifier weights: the L2-normalised class embeddings, unless the method uses the norm."""
        return F.normalize(class_embeddings, dim=-1)

    def reduce_variants(self, logits: Tensor) -> Tensor:
        """Logits of all variants (B, V, K, ...) to those of the classes (B, K, ...); the mean by default."""
        return logits.mean(dim=1)

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """The method's own losses, added to the task's; none by default.

        In training a task calls it once after ``forward``, in the same iteration. Other texts that a loss compares with
        are encoded in ``forward``, which has the tower, and kept until here.

        Args:
            class_embeddings: The result of ``forward`` in this iteration; a task may have normalised it.
        """
        return {}


class LearnedContext(TextPrompt):
    """``[SOS] v_1 .. v_M name . [EOT]`` with M learned vectors; the name may stand elsewhere.

    Towers without a start token (SigLIP's) have the vectors or the name in front.

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
        ignored_prefixes, key_map: Keys in a release of the method that are ignored, or renamed, see
            :func:`~vlm_dense.contract.release.release_weights`.
        shared_states: The vectors that all classes share have the same hidden states for all. A method that makes
            them differ sets this to ``False``; they are then computed for each class.
        ctx: (M, d) vectors, or (K, M, d) if ``class_specific``; the name in official checkpoints.
        token_ids: (K, T) ids of the prompts, ``X`` for vectors without words.

    Raises:
        ClassNamesError: a prompt longer than the tower's ``context_length``.
        ConfigError: an unknown ``position``, or an invalid number of context vectors.
    """

    ignored_prefixes: tuple[str, ...] = ('token_prefix', 'token_suffix')
    key_map: Mapping[str, str | Callable] = {}
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
        ids, lengths = self._tokenize(text_tower, ' '.join(template) if words else None, names, ending)
        self.register_buffer('token_ids', ids, persistent=False)
        self._start = text_tower.num_start
        self._before = dict(end=self.num_contexts, middle=self.num_contexts // 2, front=0)[position]
        self._before = self._before if before is None else min(before, self.num_contexts)
        self._shared = self._before if self.shared_states and not class_specific else 0
        self.register_buffer('_order', self._layout(lengths), persistent=False)
        shape = (len(names), 1, 1) if class_specific else (1, 1)
        if words:
            vectors = text_tower.embed(ids[0, self._start :][: self.num_contexts]).detach().float().cpu().repeat(*shape)
        else:
            vectors = std * torch.randn(*shape[:-2], self.num_contexts, text_tower.width)
        self.ctx = nn.Parameter(vectors)
        self._register_load_state_dict_pre_hook(self._leave_out_rebuilt)

    def _tokenize(
        self, text_tower: TextTower, words: str | None, names: list[str], ending: str
    ) -> tuple[Tensor, list[int]]:
        """Ids of the prompts up to the longest one's end, and the number of tokens of each name behind the words."""
        tokenizer, context = text_tower.tokenizer, 'X' if words is None else words
        before = len(tokenizer.own(context))
        owns = [tokenizer.own(f'{context} {name}{ending}') for name in names]
        lengths = [len(tokenizer.own(f'{context} {name}')) - before for name in names]
        if words is None:  # one placeholder for each vector, whatever the tokenizer makes of 'X'
            owns = [own[:1] * self.num_contexts + own[before:] for own in owns]
        elif before < self.num_contexts:
            raise ConfigError(
                f'{type(self).__name__}: {self.num_contexts} vectors cannot begin as the {before} tokens of {words!r}.'
            )
        try:
            ids = tokenizer.rows(owns, text_tower.context_length, texts=[f'{context} {n}{ending}' for n in names])
        except ClassNamesError as error:
            raise ClassNamesError(
                f'{type(self).__name__}: {error} The context takes {max(before, self.num_contexts)} of them; the limit '
                f"is text_encoder's context_length, at most {text_tower.longest} here."
            ) from error
        return ids[:, : int(text_tower.find_eot(ids).max()) + 1], lengths

    def _layout(self, lengths: list[int]) -> Tensor:
        """Place of each token of a prompt in its parts: the M vectors, then the tokens that follow them in the text.

        With M = 2 vectors v and the name in the middle, the rows of 'red car' and 'sky' are, ``*`` being padding::

            parts     v1 v2 red car  .   EOT     v1 v2 sky .   EOT  *
            index     0  1   2   3   4    5      0  1   2  3    4   5
            prompt    v1 red car v2  .   EOT     v1 sky v2 .   EOT  *
            row       0   2   3  1   4    5      0   2  1  3    4   5

        Vectors that are shared and stand in front are left out of the rows: the tower computes them once.
        """
        m, total = self.num_contexts, self.token_ids.shape[1] - self._start
        rows = []
        for n in lengths:
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
            inserted: Hidden states that replace the first tokens of each class before a block, see
                :meth:`TextTower.encode`; the method must not have ``shared_states``.

        Returns:
            (K, D), or (G, K, D) for G variants; not normalised.
        """
        token_ids, order = self.token_ids, self._order
        if classes is not None:
            token_ids, order = token_ids[classes], order[classes]
            context = context[classes] if self.class_specific else context
        tokens = text_tower.embed(token_ids)
        start, words = tokens[0, : self._start], tokens[:, self._start + self.num_contexts :]
        end = text_tower.find_eot(token_ids) - self._start - self._shared
        prefix = context[..., : self._shared, :]
        prefix = torch.cat([start.expand(*prefix.shape[:-2], -1, -1), prefix], dim=-2) if self._shared else start
        if self._shared < self.num_contexts:
            parts = torch.cat([context.expand(len(words), -1, -1), words], dim=1)
            words = parts.gather(1, order[..., None].expand(-1, -1, parts.shape[2]))
        prefix = prefix if prefix.shape[-2] else None
        return text_tower.encode(words, end, prefix=prefix, deep=deep, inserted=inserted)

    # --- official checkpoints -------------------------------------------------------------------------------------

    def load_pretrained(self, path: str | Mapping[str, str] | None) -> None:
        """Load the learned vectors of an official release, see :func:`~vlm_dense.contract.release.load_release`."""
        load_release(self, path)

    def _leave_out_rebuilt(self, state_dict: dict, prefix: str, *args) -> None:
        for key in [k for k in state_dict if k.startswith(tuple(prefix + name for name in self.ignored_prefixes))]:
            del state_dict[key]

    def describe_shapes(self) -> str:
        """Number and width of the vectors."""
        shared = f'for each of its {len(self.class_names)} classes' if self.class_specific else 'that all classes share'
        return (
            f'This {type(self).__name__} has {self.num_contexts} vectors {shared}, with the {self.ctx.shape[-1]} '
            'channels of its text tower.'
        )


def names_of(dataset: Mapping) -> tuple[str, ...]:
    """Class names of a data set, in label order; its images are not read.

    Args:
        dataset: Config of one that knows its names without them, as ``vlm_dense.ImageSetDataset``.
    """
    return tuple(ROOT_DATASETS.build(dict(dataset, pipeline=[], lazy_init=True)).metainfo['classes'])


class WiderContext(LearnedContext):
    """Learned context with a loss of its own on further names, encoded in the same pass as the classes.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        loss_names: Names of the loss; classes among them are encoded once.
        **kwargs: Of :class:`LearnedContext`, but for ``class_specific``.

    Attributes:
        loss_names: Indices of these names among all encoded names, int64.
        loss_embeddings: Their embeddings of this iteration, from :meth:`encode`.
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


class PrecomputedEmbeddings(TextPrompt):
    """A text prompt without a text tower: class embeddings of a published file or an exported model.

    Args:
        class_names: Names in label order.
        embeddings: As a prompt returns them, (K, D), or (V, K, D) with variants.
        source: The prompt that computed them; it defines the classifier weights and how variants are reduced;
            default: by cosines.
    """

    needs_tower = False

    def __init__(self, class_names: Sequence[str], embeddings: Tensor, source: TextPrompt | None = None):
        super().__init__(class_names, None)
        self.register_buffer('embeddings', embeddings, persistent=False)
        self.source = source
        self.num_variants = None if source is None else source.num_variants

    def forward(
        self, text_tower: nn.Module | None, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """The embeddings as they were given."""
        return self.embeddings if classes is None else self.embeddings[..., classes, :]

    def classifier_weights(self, class_embeddings: Tensor) -> Tensor:
        """As the source's."""
        return (super() if self.source is None else self.source).classifier_weights(class_embeddings)

    def reduce_variants(self, logits: Tensor) -> Tensor:
        """As the source's."""
        return (super() if self.source is None else self.source).reduce_variants(logits)


class TemplateReference(nn.Module):
    """The frozen embeddings t of a hand-written template, which a learned prompt is compared with.

    A prompt has one: it calls it in ``forward``, where the tower is, and its losses read :attr:`embeddings`.

    Args:
        class_names: Names in label order; ``_`` becomes a space.
        text_tower: Makes the tokens, which no checkpoint holds.
        template: With ``{}`` for the class name.
        owner: Name of the prompt, for the message.

    Attributes:
        embeddings: t of the classes of the last call, (k, D) unit vectors, float32.

    Raises:
        ConfigError: a template without ``{}``.
    """

    def __init__(self, class_names: Sequence[str], text_tower: TextTower, template: str, owner: str):
        super().__init__()
        (template,) = as_templates([template], owner)
        sentences = [template.format(name.replace('_', ' ')) for name in class_names]
        self.register_buffer('token_ids', text_tower.tokenize(sentences), persistent=False)
        self.embeddings: Tensor | None = None

    def forward(self, text_tower: TextTower, classes: Tensor | None = None) -> Tensor:
        """t of the classes (k,), default all; the tower keeps the sentences' embeddings until its weights change."""
        found = F.normalize(text_tower.encode_tokens(self.token_ids).float(), dim=-1).detach()
        self.embeddings = found if classes is None else found[classes]
        return self.embeddings
