"""MaskCLIP's classifier of positions: cosines with the class embeddings, and their refinement.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.weight_files import read_weights
from vlm_dense.contract.prompt import PrecomputedEmbeddings, TextPrompt
from vlm_dense.contract.text_side import TextSide
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.methods.maskclip import older
from vlm_dense.methods.maskclip.refinements import Background, ThresholdBackground
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.postprocess import build_step, outcome_of
from vlm_dense.segmentation.steps import Aliases as AliasPart
from vlm_dense.segmentation.steps import ClassMaps, Step
from vlm_dense.vocabulary.class_names import Aliases, as_class_names
from vlm_dense.vocabulary.templates import MASKCLIP_TEMPLATES

ClassNames = str | Sequence[str | Sequence[str]]


@MODELS.register_module()
class MaskCLIPHead(BaseDecodeHead):
    """Classifies positions by their cosine with the class embeddings; has no weights of its own.

    Works in any mmseg segmentor over ``vlm_dense.MaskCLIPViT`` or ``vlm_dense.MaskCLIPResNet``. The cosines of names go
    through ``refinements``, a list of steps, which make maps of classes of them::

        refinements=[
            dict(type='vlm_dense.Aliases', keep='max'),  # score of a class with several names; this is the default
            dict(type='vlm_dense.NamedBackground', names=['wall', 'floor']),  # class 0 is found by these names
            dict(type='vlm_dense.PromptDenoising', thresh=0.5),
            dict(type='vlm_dense.KeySmoothing', thresh=1.0),
            dict(type='vlm_dense.ThresholdBackground', thresh=0.1),  # class 0 is where nothing is this probable
        ]

    Args:
        class_names: Names in label order, one or several a class, or the name or path of a list, see
            :func:`vlm_dense.vocabulary.class_names.as_class_names`.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract. Default: ``vlm_dense.ZeroShotPrompt`` with MaskCLIP's 85
            templates.
        image_prompt, image_tower: Any image prompt of the contract, and the tower that it prompts, which is only
            inspected; :class:`~vlm_dense.methods.maskclip.MaskCLIP` gives them and applies the prompt. A head in
            another segmentor gets features only and refuses prompts of images.
        text_embeddings_path: Instead of the two: the release's ``<set>_<model>_clip_text.pth``, a tensor with one
            row a name.
        num_classes: K; default: as many as there are ``class_names``.
        refinements: Configs of :class:`~vlm_dense.segmentation.steps.Step`, in their order. Default: none but
            ``Aliases``.
        scale: Inverse temperature of the probabilities.
        random_text: Seed of random directions instead of the class embeddings: a control for the contribution of
            the text.
        **kwargs: ``loss_decode``, ``ignore_index``, ``align_corners``, ``sampler`` as in mmseg; and the deprecated
            options ``aliases``, ``background``, ``pd_thresh``, ``ks_thresh`` and ``ks_norm``, which change the list,
            see :func:`vlm_dense.methods.maskclip.older.refinements`.

    Raises:
        ClassNamesError: see :func:`as_class_names`; or names, ``num_classes`` and text file differ in number.
        ConfigError: an invalid option.
    """

    def __init__(
        self,
        class_names: ClassNames | None = None,
        text_encoder: dict | None = None,
        text_prompt: dict | None = None,
        image_prompt: dict | None = None,
        image_tower: nn.Module | None = None,
        text_embeddings_path: str | None = None,
        num_classes: int | None = None,
        refinements: Sequence[dict] = (),
        scale: float = 100.0,
        random_text: int | None = None,
        **kwargs: Any,
    ):
        if class_names is None:
            raise ClassNamesError(
                'MaskCLIP: class_names are missing. `vlm-dense train` and `test` take them from the data set for '
                "model=dict(type='vlm_dense.MaskCLIP'); elsewhere give class_names=['sky', ...] in label order."
            )
        if (text_encoder is None) == (text_embeddings_path is None):
            raise ConfigError('MaskCLIPHead: give either text_encoder or text_embeddings_path.')
        parts = build_refinements(refinements, older.take(kwargs, older.OF_HEAD))
        classes = _classes(class_names, parts)
        if num_classes is not None and num_classes != len(classes):
            raise ClassNamesError(
                f'MaskCLIP: {len(classes)} class names for num_classes={num_classes}. Leave num_classes out, or name '
                'the classes of the data set.'
            )
        super().__init__(1, 1, num_classes=len(classes), dropout_ratio=0, init_cfg=None, **kwargs)
        del self.conv_seg
        self.refinements = nn.ModuleList(parts)
        self.scale = scale
        self.random_text = random_text
        self.class_names = classes
        names = _flat(classes)
        if text_embeddings_path is not None:
            built = TextSide(None, PrecomputedEmbeddings(names, _text_file(text_embeddings_path, classes)))
        else:
            self._prompt_cfg = text_prompt or dict(type='vlm_dense.ZeroShotPrompt', templates=MASKCLIP_TEMPLATES)
            built = TextSide.build(text_encoder, self._prompt_cfg, names, image_prompt, image_tower)
        self.text_encoder, self.text_prompt, self.image_prompt = built.modules
        if built.prompter is not None and image_tower is None:
            raise ConfigError(
                f'MaskCLIPHead: {type(built.prompter).__name__} prompts the image tower, which a head alone does not '
                "see. Use it in type='vlm_dense.MaskCLIP'."
            )

    # --- text -------------------------------------------------------------------------------------------------

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompts."""
        return TextSide(self.text_encoder, self.text_prompt, self.image_prompt)

    def parse_classes(self, class_names: ClassNames) -> tuple[Aliases, ...]:
        """Names of each class, none for a background that is found by threshold alone."""
        return _classes(class_names, self.refinements)

    def part(self, kind: type) -> Step | None:
        """The refinement of a kind; None if there is none."""
        return next((part for part in self.refinements if isinstance(part, kind)), None)

    @property
    def background(self) -> int | None:
        """The background class; None if there is none."""
        part = self.part(Background)
        return None if part is None else part.index

    def set_class_names(self, class_names: ClassNames, image_tower: nn.Module | None = None) -> None:
        """Replace the classes; learned prompts are kept.

        Args:
            class_names: As in the constructor.
            image_tower: As in the constructor, for prompts that need it.

        Raises:
            ClassNamesError: the names cannot be used; the old ones stay.
        """
        classes = self.parse_classes(class_names)
        self.text_prompt = self._prompt_for(classes, image_tower)
        self.class_names = classes
        self.num_classes = self.out_channels = len(classes)

    def embed_classes(
        self,
        image_features: Tensor | None = None,
        classes: tuple[Aliases, ...] | None = None,
        image_tower: nn.Module | None = None,
    ) -> Tensor:
        """Embeddings of the N names of all classes from the text prompt.

        In eval mode without gradient they are encoded once a list of classes.

        Args:
            image_features: (B, D) global features, for prompts that depend on the image.
            classes: Of :meth:`parse_classes`; default: the head's own.
            image_tower: As in the constructor, for prompts that need it; only read for other classes.

        Returns:
            (N, D), (B, N, D), (V, N, D) or (B, V, N, D), not normalised.
        """
        if self.random_text is not None:
            shape = len(_flat(classes or self.class_names)), self._embed_dim
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(self.random_text))
            return drawn.to(next(iter((*self.parameters(), *self.buffers()))).device)
        self._check_given(classes)
        side = self.text_side
        if classes is None or classes == self.class_names:
            return side.class_embeddings(image_features)
        if self.training or torch.is_grad_enabled() or self.image_conditioned:
            prompt = self._prompt_for(classes, image_tower)
            return replace(side, text_prompt=prompt).class_embeddings(image_features)
        tower = self.text_encoder  # the prompt for other classes is built only where its embeddings are not known
        return tower.remember(lambda: self._prompt_for(classes, image_tower)(tower), self.text_prompt, classes)

    @property
    def image_conditioned(self) -> bool:
        """Whether the class embeddings depend on the image's global feature."""
        return self.random_text is None and self.text_prompt.image_conditioned

    @property
    def _embed_dim(self) -> int:
        return self.text_prompt.embeddings.shape[-1] if self.text_encoder is None else self.text_encoder.embed_dim

    def _check_given(self, classes: tuple[Aliases, ...] | None) -> None:
        if self.text_encoder is None and classes not in (None, self.class_names):
            raise ClassNamesError(
                'MaskCLIPHead: the class embeddings come from text_embeddings_path, so there are no other classes. '
                'Build the head with a text_encoder to segment by any names.'
            )

    def _prompt_for(self, classes: tuple[Aliases, ...], image_tower: nn.Module | None) -> TextPrompt:
        """The prompt for other classes, with what the prompt of the model has learned."""
        if classes == self.class_names:
            return self.text_prompt
        self._check_given(classes)
        prompt = self.text_side.prompt_for(self._prompt_cfg, _flat(classes), image_tower)
        return prompt.train(self.training)

    def variant(self, **options: Any) -> MaskCLIPHead:
        """This head with other options, for comparisons on the same features; it shares all modules with this one.

        Args:
            **options: Any of ``refinements`` (which may not change the names), ``scale`` and ``random_text``, or of the
                older ``pd_thresh``, ``ks_thresh`` and ``ks_norm``.

        Raises:
            ConfigError: other options.
        """
        deprecated = older.take(options, ('pd_thresh', 'ks_thresh', 'ks_norm'))
        unknown = set(options) - {'refinements', 'scale', 'random_text'}
        if unknown:
            raise ConfigError(f'MaskCLIPHead: {sorted(unknown)} cannot differ between variants of one head.')
        head = copy.copy(self)
        parts = build_refinements(options.pop('refinements', self.refinements), deprecated)
        head._modules = dict(self._modules, refinements=nn.ModuleList(parts))
        if _naming(parts) != _naming(self.refinements):
            raise ConfigError(
                'MaskCLIPHead: variants of one head have the same names, so Aliases and backgrounds cannot differ.'
            )
        vars(head).update(options)
        return head

    # --- logits -----------------------------------------------------------------------------------------------

    def forward(
        self, features: ImageFeatures, classes: tuple[Aliases, ...] | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Maps (B, K, h, w): cosines; after key smoothing, weighted sums of probabilities.

        Args:
            features: With ``value`` (B, D, h, w), and ``key`` (B, h*w, C) for key smoothing.
            classes: Of :meth:`parse_classes`; default: the head's own.
            text: Embeddings of their names, where they are known; default: of :meth:`embed_classes`.
        """
        classes = classes or self.class_names
        text = self.embed_classes(features.global_, classes) if text is None else text
        return self.refine(self.scores(features.value, text, classes), features.key).values

    def refine(self, scores: Tensor, key: Tensor | None = None) -> ClassMaps:
        """Refined scores of classes (B, K, h, w), with keys (B, h*w, C)."""
        maps = ClassMaps(scores, self.scale, key=key)
        for part in self.refinements:
            if part.in_training or not self.training:
                maps = part.refine(maps)
        return maps

    def scores(self, value: Tensor, text: Tensor, classes: tuple[Aliases, ...] | None = None) -> Tensor:
        """Cosines (B, K, h, w) of positions and classes, float32; -inf for a class without name.

        Args:
            value: (B, D, h, w).
            text: Embeddings of all names as the text prompt gives them, see :meth:`embed_classes`.
            classes: The names of each class; default: the head's own.
        """
        maps = ClassMaps(
            self.name_scores(value, text), self.scale, classes or self.class_names, background=self.background
        )
        return self.part(AliasPart).refine(maps).values

    def name_scores(self, value: Tensor, text: Tensor) -> Tensor:
        """Cosines (B, N, h, w) of positions and the names of all classes, float32; arguments as of :meth:`scores`."""
        side = self.text_side
        if self.random_text is not None:
            side = replace(side, text_prompt=TextPrompt(('random',), None))
        return side.combine(side.scores(value, text))

    def probabilities(self, maps: Tensor) -> Tensor:
        """Probabilities (B, K, h, w) that sum to one, of maps as ``forward`` gives them in eval mode."""
        return self.class_maps(maps).probabilities

    def class_maps(self, maps: Tensor) -> ClassMaps:
        """Kind of the maps (B, K, h, w) of ``forward`` in eval mode: cosines, or sums of probabilities."""
        return outcome_of(self.refinements, ClassMaps(maps, self.scale))

    # --- training, for prompts that learn -----------------------------------------------------------------------

    def loss(
        self, inputs: ImageFeatures, batch_data_samples: list, train_cfg: dict, text: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of the scaled cosines, and ``prompt.*``, the prompt's own; ``text`` as in :meth:`forward`."""
        text = self.embed_classes(inputs.global_) if text is None else text
        maps = self.refine(self.scores(inputs.value, text))
        losses = self.loss_by_feat(self.scale * maps.values, batch_data_samples)
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses


def build_refinements(cfgs: Sequence[dict | Step], options: dict) -> list[Step]:
    """The refinements of a head, in their order.

    Args:
        cfgs: Configs of the steps, or steps.
        options: Deprecated ones that change the list.

    Raises:
        ConfigError: an entry that is no step, is repeated or at the wrong position, or an invalid option.
    """
    parts = [build_step(cfg) for cfg in cfgs]
    names = [type(part).__name__ for part in parts]
    if len(set(names)) < len(names):
        raise ConfigError(f'MaskCLIPHead: each refinement can stand once in the list, found {names}.')
    if 'Aliases' not in names:
        parts.insert(0, AliasPart())
    elif names[0] != 'Aliases':
        raise ConfigError(f'MaskCLIPHead: Aliases makes classes of names, so it stands first, found {names}.')
    parts = older.refinements(parts, options)
    backgrounds = [part for part in parts if isinstance(part, Background)]
    if len({part.index for part in backgrounds}) > 1:
        raise ConfigError(f'MaskCLIPHead: one class is the background, found {[part.index for part in backgrounds]}.')
    for part in backgrounds:
        if isinstance(part, ThresholdBackground):
            part.named = len(backgrounds) > 1
    return parts


def _classes(class_names: ClassNames, refinements: Sequence[Step]) -> tuple[Aliases, ...]:
    """Names of each class, as the refinements change them."""
    given = classes = as_class_names(class_names)
    for part in refinements:
        classes = part.change_names(classes)
    if len(given) == 1 and not any(isinstance(part, Background) for part in refinements):
        raise ClassNamesError(
            f'One class, {given[0][0]!r}, would be everywhere. Name what else the image shows, as in '
            f"'{given[0][0]}, background'."
        )
    return classes


def _naming(refinements: Sequence[Step]) -> list[tuple]:
    """Inputs of the names of classes."""
    return [
        tuple(getattr(part, name, None) for name in ('keep', 'keep_all', 'names', 'thresh', 'index'))
        for part in refinements
        if isinstance(part, (AliasPart, Background))
    ]


def _flat(classes: tuple[Aliases, ...]) -> list[str]:
    return [name for aliases in classes for name in aliases]


def _text_file(path: str, classes: tuple[Aliases, ...]) -> Tensor:
    """Rows (N, D), float32, of a text file of the release."""
    embeddings = read_weights(path)
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
        raise CheckpointError(f'{path} is no text file of MaskCLIP: expected a tensor with one row a class name.')
    number = sum(len(names) for names in classes)
    if len(embeddings) != number:
        raise ClassNamesError(
            f'{path} holds the embeddings of {len(embeddings)} names, but there are {number} class names. They must be '
            'the names that the file was made from, in their order.'
        )
    return embeddings.float()
