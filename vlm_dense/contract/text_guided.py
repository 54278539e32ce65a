"""Shared by classifier, segmentors and detectors: text encoder, prompts, and the comparison of images and classes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.digest import BoundedCache, precision, weights_digest
from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.contract.roles import ImagePrompt, build_part
from vlm_dense.contract.text_prompt import TextPrompt
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import check_names


class TextGuided:
    """Mixin of every task's model: builds text encoder and prompts, encodes images and class names, compares them.

    Goes in front of the model class: ``class Task(TextGuided, BaseModule)``. The model has a ``backbone``, CLIP's image
    tower, if it encodes images itself. In eval mode, without gradient, class embeddings are remembered by a digest of
    the weights that they were computed from, so nobody has to say that weights changed.
    """

    frozen_backbone = False
    repeated_names = False
    """Whether classes may have equal names, as those of ImageNet have."""

    def build_text(
        self,
        text_encoder: dict,
        text_prompt: dict,
        class_names: Sequence[str] | None,
        image_prompt: dict | None = None,
        image_tower: nn.Module | None = None,
    ) -> None:
        """Set ``text_encoder``, ``text_prompt`` and ``image_prompt``.

        Args:
            text_encoder: ``vlm_dense.TextTower``.
            text_prompt: Any text prompt of the contract.
            class_names: Names in label order.
            image_prompt: Any image prompt of the contract.
            image_tower: CLIP's image tower; it is looked at and not kept. ``None`` for a head that gets features only.

        Raises:
            ClassNamesError: no names, or names that no text tower can tell apart.
            ConfigError: a backbone that is no CLIP image tower, towers of different joint spaces, or prompts that wait
                for each other.
        """
        owner = type(self).__name__
        if image_tower is not None:
            self.check_tower(image_tower)
        self.check_names(class_names)
        self.text_encoder = MODELS.build(text_encoder)
        dim = self.text_encoder.embed_dim
        if image_tower is not None and dim != image_tower.embed_dim:
            raise ConfigError(
                f'{owner}: image and text tower must share one joint space, found {image_tower.embed_dim} and '
                f'{dim} dimensions. Use the same arch for backbone and text_encoder.'
            )
        self._known = BoundedCache()
        self.text_prompt, self.image_prompt = self.build_part(text_prompt, class_names, image_tower), None
        if image_prompt is not None:
            if self.role(ImagePrompt) is not None:
                raise ConfigError(
                    f'{owner}: {type(self.text_prompt).__name__} already prompts the image tower; leave image_prompt '
                    'out, or use a text prompt that is one only.'
                )
            self.image_prompt = self.build_part(image_prompt, class_names, image_tower)
        prompt = self.role(ImagePrompt)
        if prompt is not None and prompt.reads_text and self.text_prompt.image_conditioned:
            raise ConfigError(
                f'{owner}: {type(prompt).__name__} reads the class embeddings before the image is encoded, and '
                f'{type(self.text_prompt).__name__} makes them of the encoded image. Change one of them.'
            )

    @classmethod
    def check_names(cls, class_names: Sequence[str] | None) -> None:
        """Refuse to go on without class names, or with some that no text tower can tell apart.

        Raises:
            ClassNamesError: there are none, or they cannot be used.
        """
        if class_names is None:
            raise ClassNamesError(
                f'{cls.__name__}: class_names are missing. tools/train.py and tools/test.py take them from the data '
                "set; elsewhere give model=dict(class_names=['wall', ...]) in label order."
            )
        check_names(class_names, cls.repeated_names)

    @classmethod
    def check_parts(cls, parts: Container[str]) -> None:
        """Refuse a head of the contract where positions are compared and not images.

        Raises:
            ConfigError: there is one.
        """
        if 'head' in parts:
            raise ConfigError(
                f"{cls.__name__}: a head of the contract makes logits of whole images, for 'vlm_dense.CLIPClassifier'. "
                'Leave head out; per pixel, class embeddings are chosen by text_prompt and logits made by decode heads.'
            )

    @classmethod
    def check_tower(cls, image_tower: nn.Module) -> None:
        """Refuse a backbone that is no image tower.

        Raises:
            ConfigError: it is none.
        """
        if not isinstance(image_tower, ImageTower):
            raise ConfigError(
                f"{cls.__name__}: the backbone must be 'vlm_dense.CLIPResNet' or 'vlm_dense.CLIPViT', found "
                f'{type(image_tower).__name__}.'
            )

    def build_part(self, cfg: dict, class_names: Sequence[str], image_tower: nn.Module | None = None) -> nn.Module:
        """Build a prompt or head from its config, with what its constructor names of names and towers.

        Raises:
            ConfigError: it needs the image tower, and there is none here.
        """
        tower = getattr(self, 'backbone', None) if image_tower is None else image_tower
        return build_part(cfg, class_names=class_names, text_tower=self.text_encoder, image_tower=tower)

    def role(self, kind: type) -> nn.Module | None:
        """The first of ``text_prompt``, ``image_prompt``, ``head`` and loss that is an instance of ``kind``."""
        parts = (self.text_prompt, self.image_prompt, getattr(self, 'head', None), getattr(self, 'loss_function', None))
        return next((part for part in parts if isinstance(part, kind)), None)

    def encode(
        self,
        images: Tensor | ImageFeatures,
        names: Sequence[str],
        classes: Tensor | None = None,
        text: bool = True,
        **options: Any,
    ) -> tuple[ImageFeatures, Tensor | None]:
        """Prompted features of images, and class embeddings.

        Args:
            images: (B, 3, H, W) normalised, or features that were computed before and are taken as they are, or token
                ids of texts in the place of images, int64 (B, T), which give ``tokens`` and ``global_``.
            names: Of the features, see :meth:`ImageTower.encode`; ``'global'`` is added for a text prompt that is
                image-conditioned.
            classes: Indices (k,) of classes to encode, default all.
            text: Encode the classes, else ``None`` is returned for them.
            **options: Of the kind of tower, see its ``encode``.

        Returns:
            Features, and (K, D), (B, K, D), (V, K, D) or (B, V, K, D).
        """
        prompt = self.role(ImagePrompt)
        features, embeddings = images, None
        if self.text_prompt.image_conditioned and 'global' not in names:
            names = (*names, 'global')
        if not isinstance(images, ImageFeatures) and not images.is_floating_point():
            features = self.caption_features(images)
        elif not isinstance(images, ImageFeatures):
            tokens, plain = None, None
            if prompt is not None:
                if prompt.plain:
                    with torch.no_grad():
                        plain = self.backbone.encode(images, prompt.plain)
                if prompt.reads_text:
                    embeddings = self.class_embeddings(None, classes)
                images, tokens = prompt.prompt(images, embeddings, plain)
            trained = prompt is not None or any(p.requires_grad for p in self.backbone.parameters())
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                features = self.backbone.encode(images, names, tokens, **options)
            features.prompts = tokens
        if text and embeddings is None:
            embeddings = self.class_embeddings(features.global_, classes)
        return features, embeddings

    def caption_features(self, ids: Tensor) -> ImageFeatures:
        """What the text tower makes of texts, int64 (B, T), that stand for images; id 0 fills up.

        Raises:
            ConfigError: a prompt of the image tower, which is not run.
        """
        if self.role(ImagePrompt) is not None:
            raise ConfigError(
                f'{type(self).__name__}: {type(self.role(ImagePrompt)).__name__} prompts the image tower, and texts in '
                'the place of images do not pass it. Leave the prompt out.'
            )
        end = self.text_encoder.find_eot(ids)
        ids = ids[:, : int(end.max()) + 1]
        tokens = self.text_encoder.token_features(ids)
        rows = torch.arange(len(ids), device=tokens.device)
        return ImageFeatures(global_=tokens[rows, end.to(tokens.device)], tokens=tokens, padding=ids == 0)

    def class_embeddings(
        self,
        image_features: Tensor | None = None,
        classes: Tensor | None = None,
        prompt: TextPrompt | None = None,
    ) -> Tensor:
        """Class embeddings as the text prompt gives them; encoded once in eval mode.

        Args:
            image_features: (B, D) global features, for prompts that depend on the image.
            classes: Indices (k,) of classes to encode, default all.
            prompt: In the place of the model's own, for other names.
        """
        prompt = prompt or self.text_prompt
        kwargs = {} if classes is None else dict(classes=classes)
        fleeting = self.training or torch.is_grad_enabled() or prompt.image_conditioned or not prompt.needs_tower
        if kwargs or fleeting:
            self._check_image_features(prompt, image_features)
            return prompt(self.text_encoder, image_features, **kwargs)
        device = self.text_encoder.logit_scale.device
        key = (weights_digest(prompt, self.text_encoder), str(device), precision(device))
        return self._known.get(key, lambda: prompt(self.text_encoder))

    def _check_image_features(self, prompt: TextPrompt, image_features: Tensor | None) -> None:
        if prompt.image_conditioned and image_features is None:
            raise ConfigError(
                f'{type(self).__name__}: {type(prompt).__name__} depends on the image; the backbone must give its '
                "global feature: features=('value', 'global')."
            )

    def similarity(self, dense: Tensor, class_embeddings: Tensor, prompt: TextPrompt | None = None) -> Tensor:
        """Scores (B, K, h, w) of positions and classes, float32: cosines, unless the prompt says otherwise.

        They are computed in float32, as half precision would round a cosine by more than what tells classes apart.

        Args:
            dense: (B, D, h, w), not normalised.
            class_embeddings: (K, D) or (B, K, D); with V variants (V, K, D) or (B, V, K, D), whose scores the prompt
                combines.
            prompt: The one that the embeddings come from, default the model's own.

        Raises:
            ConfigError: images and classes are not in one joint space.
        """
        prompt = prompt or self.text_prompt
        if dense.shape[1] != class_embeddings.shape[-1]:
            raise ConfigError(
                f'{type(self).__name__}: image and text tower must share one joint space, found {dense.shape[1]} and '
                f'{class_embeddings.shape[-1]} dimensions. Use the same arch for backbone and text_encoder.'
            )
        with torch.autocast(dense.device.type, enabled=False):
            text = prompt.directions(class_embeddings.float())
            text = text.expand(dense.shape[0], *text.shape[-2 if prompt.num_variants is None else -3 :])
            scores = torch.einsum('bdhw,b...d->b...hw', F.normalize(dense.float(), dim=1), text)
            return scores if prompt.num_variants is None else prompt.combine(scores)

    def train(self, mode: bool = True) -> TextGuided:
        """Switch the mode; a frozen image tower stays in eval mode."""
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self
