"""MaskCLIP's classifier of positions: cosines with the class embeddings, and their refinement.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.digest import precision, weights_digest
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.methods.base.roles import ImagePrompt
from vlm_dense.methods.base.templates import MASKCLIP_TEMPLATES
from vlm_dense.methods.base.text_guided import TextGuided
from vlm_dense.methods.base.text_prompt import TextPrompt
from vlm_dense.methods.maskclip.release import read_published
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.class_names import Aliases, as_class_names

SUPPRESSED = -100.0
"""Logit of a class that prompt denoising took out, on the scale of cosines."""

ClassNames = str | Sequence[str | Sequence[str]]


@MODELS.register_module()
class MaskCLIPHead(TextGuided, BaseDecodeHead):
    """Classifies positions by their cosine with the class embeddings; has no weights of its own.

    Works in any mmseg segmentor over ``vlm_dense.MaskCLIPViT`` or ``vlm_dense.MaskCLIPResNet``. Outside of training the
    cosines are refined: :meth:`denoise` (``pd_thresh``), then :meth:`smooth` (``ks_thresh``).

    Args:
        class_names: Names in label order, one or several a class, or the name or path of a list, see
            :func:`vlm_dense.segmentation.class_names.as_class_names`.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract. Default: ``vlm_dense.ZeroShotPrompt`` with MaskCLIP's 85
            templates.
        image_prompt, image_tower: Any image prompt of the contract, and the tower that it prompts;
            :class:`~vlm_dense.methods.maskclip.MaskCLIP` gives them and applies the prompt. A head in another
            segmentor gets features only and refuses prompts of images.
        text_embeddings_path: In place of the two: the release's ``<set>_<model>_clip_text.pth``, a tensor with one
            row a name.
        num_classes: K; default: as many as there are ``class_names``.
        aliases: What a class with several names gets: the ``'max'`` or ``'mean'`` of their cosines, or ``'first'``:
            the names after the first, which is the published one in the lists of the package, are left out. Does not
            concern the names of the background, which gets their maximum.
        background: How a background class is found, which is class ``index`` of ``class_names``; its own name is not
            used. Either or both of::

                dict(index=0, names=['wall', 'ceiling', 'floor'])   # what it may consist of
                dict(index=0, thresh=0.5)                           # where no class has this probability

            Probabilities are ``softmax(scale * cosine)`` or, after key smoothing, the weighted sums divided by their
            sum over classes.
        pd_thresh: Prompt denoising removes a class from an image that nowhere reaches this probability; 0: off.
        ks_thresh: Key smoothing replaces positions without a class of this probability; 0: off.
        ks_norm: Along which axis the keys are normalised: ``'position'`` (official code) or ``'channel'`` (the
            paper's cosine similarity).
        scale: Inverse temperature of the probabilities.
        random_text: Seed of random directions that take the place of the class embeddings: a control that shows what
            the text contributes.
        **kwargs: ``loss_decode``, ``ignore_index``, ``align_corners``, ``sampler`` as in mmseg.

    Raises:
        ClassNamesError: see :func:`as_class_names`; or names, ``num_classes`` and text file differ in number.
        ConfigError: an option that cannot work.
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
        aliases: str = 'max',
        background: dict | None = None,
        pd_thresh: float = 0.0,
        ks_thresh: float = 0.0,
        ks_norm: str = 'position',
        scale: float = 100.0,
        random_text: int | None = None,
        **kwargs,
    ):
        for name, value, allowed in (
            ('aliases', aliases, ('max', 'mean', 'first')),
            ('ks_norm', ks_norm, ('position', 'channel')),
        ):
            if value not in allowed:
                raise ConfigError(f'MaskCLIPHead: {name} must be one of {allowed}, found {value!r}.')
        if class_names is None:
            raise ClassNamesError(
                'MaskCLIP: class_names are missing. tools/train.py and tools/test.py take them from the data set for '
                "model=dict(type='vlm_dense.MaskCLIP'); elsewhere give class_names=['sky', ...] in label order."
            )
        if (text_encoder is None) == (text_embeddings_path is None):
            raise ConfigError('MaskCLIPHead: give either text_encoder or text_embeddings_path.')
        background = _background(background)
        classes = _classes(class_names, background, aliases)
        if num_classes is not None and num_classes != len(classes):
            raise ClassNamesError(
                f'MaskCLIP: {len(classes)} class names for num_classes={num_classes}. Leave num_classes out, or name '
                'the classes of the data set.'
            )
        super().__init__(1, 1, num_classes=len(classes), dropout_ratio=0, init_cfg=None, **kwargs)
        del self.conv_seg
        self.aliases = aliases
        self.background = background
        self.pd_thresh = pd_thresh
        self.ks_thresh = ks_thresh
        self.ks_norm = ks_norm
        self.scale = scale
        self.random_text = random_text
        self.class_names = classes
        names = _flat(classes)
        self._tower = (image_tower,)  # in a tuple, so that it is no part of this module
        if text_embeddings_path is not None:
            self.text_encoder = self.image_prompt = None
            self.text_prompt = GivenText(names, _text_file(text_embeddings_path, classes))
        else:
            self._prompt_cfg = text_prompt or dict(type='vlm_dense.ZeroShotPrompt', templates=MASKCLIP_TEMPLATES)
            self.build_text(text_encoder, self._prompt_cfg, names, image_prompt, image_tower)
        prompt = self.role(ImagePrompt)
        if prompt is not None and image_tower is None:
            raise ConfigError(
                f'MaskCLIPHead: {type(prompt).__name__} prompts the image tower, which a head alone does not see. Use '
                "it in type='vlm_dense.MaskCLIP'."
            )

    # --- text -------------------------------------------------------------------------------------------------

    def parse_classes(self, class_names: ClassNames) -> tuple[Aliases, ...]:
        """Names of each class, none for a background that is found by threshold alone."""
        return _classes(class_names, self.background, self.aliases)

    def set_class_names(self, class_names: ClassNames) -> None:
        """Segment by other classes from now on; what the prompt has learned is kept.

        Raises:
            ClassNamesError: the names cannot be used; the old ones stay.
        """
        classes = self.parse_classes(class_names)
        self.text_prompt = self._prompt_for(classes)
        self.class_names = classes
        self.num_classes = self.out_channels = len(classes)

    def embed_classes(self, image_features: Tensor | None = None, classes: tuple[Aliases, ...] | None = None) -> Tensor:
        """Embeddings of the N names of all classes, as the text prompt gives them.

        In eval mode without gradient they are encoded once a list of classes.

        Args:
            image_features: (B, D) global features, for prompts that depend on the image.
            classes: Of :meth:`parse_classes`; default: the head's own.

        Returns:
            (N, D), (B, N, D), (V, N, D) or (B, V, N, D), not normalised.
        """
        if self.random_text is not None:
            shape = len(_flat(classes or self.class_names)), self._embed_dim
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(self.random_text))
            return drawn.to(next(iter((*self.parameters(), *self.buffers()))).device)
        self._check_given(classes)
        if classes is None or classes == self.class_names:
            return self.class_embeddings(image_features)
        if self.training or torch.is_grad_enabled() or self.image_conditioned:
            return self.class_embeddings(image_features, prompt=self._prompt_for(classes))
        device = self.text_encoder.logit_scale.device
        key = (classes, weights_digest(self.text_prompt, self.text_encoder), str(device), precision(device))
        return self._known.get(key, lambda: self._prompt_for(classes)(self.text_encoder))

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

    def _prompt_for(self, classes: tuple[Aliases, ...]) -> TextPrompt:
        """The prompt for other classes, with what the prompt of the model has learned."""
        if classes == self.class_names:
            return self.text_prompt
        self._check_given(classes)
        prompt = self.build_part(self._prompt_cfg, _flat(classes), self._tower[0])
        prompt = prompt.to(self.text_encoder.logit_scale.device)
        try:
            prompt.load_state_dict(self.text_prompt.state_dict())
        except RuntimeError as error:
            raise ClassNamesError(
                f'{type(prompt).__name__} has learned something for each of its {self.num_classes} classes and cannot '
                f'be used for others: {str(error).splitlines()[1].strip()}'
            ) from error
        return prompt.train(self.training)

    def variant(self, **options) -> MaskCLIPHead:
        """This head with other options, for comparisons on the same features; it shares all modules with this one.

        Args:
            **options: Any of ``pd_thresh``, ``ks_thresh``, ``ks_norm``, ``scale`` and ``random_text``.
        """
        unknown = set(options) - {'pd_thresh', 'ks_thresh', 'ks_norm', 'scale', 'random_text'}
        if unknown:
            raise ConfigError(f'MaskCLIPHead: {sorted(unknown)} cannot differ between variants of one head.')
        head = copy.copy(self)
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
        maps = self.scores(features.value, text, classes)
        if not self.training:
            if self.pd_thresh > 0:
                maps = self.denoise(maps)
            if self.ks_thresh > 0:
                maps = self.smooth(maps, features.key)
        return self._add_background(maps)

    def scores(self, value: Tensor, text: Tensor, classes: tuple[Aliases, ...] | None = None) -> Tensor:
        """Cosines (B, K, h, w) of positions and classes, float32; -inf for a class without name.

        Args:
            value: (B, D, h, w).
            text: Embeddings of all names as the text prompt gives them, see :meth:`embed_classes`.
            classes: The names of each class; default: the head's own.
        """
        classes = classes or self.class_names
        scores = self.name_scores(value, text)
        if all(len(names) == 1 for names in classes):
            return scores
        background = None if self.background is None else self.background['index']
        maps = []
        for k, each in enumerate(scores.split([len(names) for names in classes], dim=1)):
            if each.shape[1] == 0:
                maps.append(torch.full_like(scores[:, 0], -math.inf))
            elif self.aliases == 'mean' and k != background:
                maps.append(each.mean(dim=1))
            else:
                maps.append(each.amax(dim=1))
        return torch.stack(maps, dim=1)

    def name_scores(self, value: Tensor, text: Tensor) -> Tensor:
        """Cosines (B, N, h, w) of positions and the names of all classes, float32; arguments as of :meth:`scores`."""
        plain = None if self.random_text is None else TextPrompt(('random',), None)
        return self.similarity(value, text, plain)

    def denoise(self, maps: Tensor) -> Tensor:
        """Prompt denoising: a class that is nowhere in an image as probable as ``pd_thresh`` is taken out of it.

        Args:
            maps: Cosines (B, K, h, w).
        """
        absent = self._softmax(maps).amax(dim=(2, 3), keepdim=True) < self.pd_thresh
        return maps.masked_fill(absent, SUPPRESSED)

    def smooth(self, maps: Tensor, key: Tensor | None) -> Tensor:
        """Key smoothing: positions that are sure of nothing take the probabilities of positions with similar keys.

        Args:
            maps: Cosines (B, K, h, w).
            key: (B, h*w, C).

        Returns:
            (B, K, h, w) probabilities, and at replaced positions sums of all probabilities weighted by the products of
            the normalised keys; these are not bounded by 1.
        """
        if key is None:
            raise ConfigError(
                'MaskCLIPHead: ks_thresh needs keys, which attn_pooling does not give. Set one of them only.'
            )
        p = self._softmax(maps)
        key = F.normalize(key, dim=1 if self.ks_norm == 'position' else 2)
        smoothed = key @ (key.mT @ p.flatten(2).mT)  # (k k^T) p without the (hw, hw) product
        unsure = p.amax(dim=1, keepdim=True) < self.ks_thresh
        return torch.where(unsure, smoothed.mT.unflatten(2, p.shape[2:]), p)

    def probabilities(self, maps: Tensor) -> Tensor:
        """Probabilities (B, K, h, w) that sum to one, of maps as ``forward`` gives them in eval mode."""
        return maps / maps.sum(dim=1, keepdim=True) if self.ks_thresh > 0 else self._softmax(maps)

    def _softmax(self, maps: Tensor) -> Tensor:
        return (self.scale * maps).softmax(dim=1)

    def _add_background(self, maps: Tensor) -> Tensor:
        """Set the background logit to the logit of the threshold where that is higher."""
        if self.background is None or self.background['thresh'] is None:
            return maps
        thresh, index = self.background['thresh'], self.background['index']
        if self.ks_thresh > 0 and not self.training:
            level = thresh * maps.sum(dim=1)
        else:
            level = (math.log(thresh) + (self.scale * maps).logsumexp(dim=1)) / self.scale
        maps = maps.clone()
        maps[:, index] = torch.maximum(maps[:, index], level)
        return maps

    # --- training, for prompts that learn -----------------------------------------------------------------------

    def loss(
        self, inputs: ImageFeatures, batch_data_samples: list, train_cfg: dict, text: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of the scaled cosines, and ``prompt.*``, the prompt's own; ``text`` as in :meth:`forward`."""
        text = self.embed_classes(inputs.global_) if text is None else text
        maps = self._add_background(self.scores(inputs.value, text))
        losses = self.loss_by_feat(self.scale * maps, batch_data_samples)
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses


def _background(cfg: dict | None) -> dict | None:
    if cfg is None:
        return None
    unknown = set(cfg) - {'index', 'names', 'thresh'}
    cfg = dict(dict(index=0, names=None, thresh=None), **cfg)
    if unknown or (cfg['names'] is None and cfg['thresh'] is None):
        raise ConfigError(
            f'MaskCLIPHead: background takes index, names and thresh, with names or thresh or both, found {dict(cfg)}.'
        )
    if cfg['thresh'] is not None and not 0 < cfg['thresh'] <= 1:
        raise ConfigError(
            f'MaskCLIPHead: background.thresh is a probability, above 0 and up to 1, found {cfg["thresh"]}.'
        )
    if cfg['names'] is not None:
        cfg['names'] = [name for aliases in as_class_names(cfg['names']) for name in aliases]
    return cfg


def _classes(class_names: ClassNames, background: dict | None, aliases: str) -> tuple[Aliases, ...]:
    """Names of each class; those of the background put in its place, none if it has none."""
    classes = as_class_names(class_names)
    if aliases == 'first':
        classes = tuple(names[:1] for names in classes)
    if background is None:
        if len(classes) == 1:
            raise ClassNamesError(
                f'One class, {classes[0][0]!r}, would be everywhere. Name what else there is, or find the rest with '
                "background=dict(thresh=0.5) and class_names=['background', ...]."
            )
        return classes
    index, names = background['index'], background['names']
    if not 0 <= index < len(classes) or len(classes) == 1:
        raise ClassNamesError(
            f'MaskCLIPHead: background.index={index} must be one of at least two classes, found {len(classes)} names.'
        )
    if names is not None:
        return as_class_names([*classes[:index], names, *classes[index + 1 :]])
    return (*classes[:index], (), *classes[index + 1 :])


def _flat(classes: tuple[Aliases, ...]) -> list[str]:
    return [name for aliases in classes for name in aliases]


class GivenText(TextPrompt):
    """Class embeddings (N, D) that are given and not computed."""

    def __init__(self, class_names: Sequence[str], embeddings: Tensor):
        super().__init__(class_names, None)
        self.register_buffer('embeddings', embeddings, persistent=False)

    def forward(self, text_tower: None, image_features: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        """The embeddings (N, D)."""
        return self.embeddings if classes is None else self.embeddings[classes]


def _text_file(path: str, classes: tuple[Aliases, ...]) -> Tensor:
    """Rows (N, D), float32, of a text file of the release."""
    embeddings = read_published(path)
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
        raise CheckpointError(f'{path} is no text file of MaskCLIP: expected a tensor with one row a class name.')
    number = sum(len(names) for names in classes)
    if len(embeddings) != number:
        raise ClassNamesError(
            f'{path} holds the embeddings of {len(embeddings)} names, but there are {number} class names. They must be '
            'the names that the file was made from, in their order.'
        )
    return embeddings.float()
