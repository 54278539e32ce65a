"""What a task with CLIP's image tower and a text prompt does about prompts and text, whatever it predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.methods.base.roles import ImagePrompt, build_part
from vlm_dense.registry import MODELS


class TextGuided:
    """Mixin of models whose ``backbone`` is an image tower: builds the prompts, encodes the classes and the images.

    Goes in front of the model class: ``class Task(TextGuided, BaseModel)``. In eval mode, without gradient, the classes
    are encoded once; the embeddings are forgotten when the mode changes and when weights are loaded.
    """

    frozen_backbone = False
    _class_embeddings: Tensor | None = None

    def build_text(
        self,
        text_encoder: dict,
        text_prompt: dict,
        class_names: Sequence[str] | None,
        image_prompt: dict | None = None,
    ) -> None:
        """Set ``text_encoder``, ``text_prompt`` and ``image_prompt``; call it when ``backbone`` is there.

        Raises:
            ClassNamesError: no names.
            ConfigError: a backbone that is no CLIP image tower, towers of different joint spaces, or prompts that wait
                for each other.
        """
        owner = type(self).__name__
        if not isinstance(self.backbone, ImageTower):
            raise ConfigError(
                f"{owner}: the backbone must be 'vlm_dense.CLIPResNet' or 'vlm_dense.CLIPViT', found "
                f'{type(self.backbone).__name__}.'
            )
        if class_names is None:
            raise ClassNamesError(
                f'{owner}: class_names are missing. tools/train.py and tools/test.py take them from the data set; '
                "elsewhere give model=dict(class_names=['wall', ...]) in label order."
            )
        self.text_encoder = MODELS.build(text_encoder)
        dim = self.text_encoder.embed_dim
        if dim != self.backbone.embed_dim:
            raise ConfigError(
                f'{owner}: image and text tower must share one joint space, found {self.backbone.embed_dim} and '
                f'{dim} dimensions. Use the same arch for backbone and text_encoder.'
            )
        self.text_prompt, self.image_prompt = self.build_part(text_prompt, class_names), None
        if image_prompt is not None:
            if self.role(ImagePrompt) is not None:
                raise ConfigError(
                    f'{owner}: {type(self.text_prompt).__name__} already prompts the image tower; leave image_prompt '
                    'out, or use a text prompt that is one only.'
                )
            self.image_prompt = self.build_part(image_prompt, class_names)
        prompt = self.role(ImagePrompt)
        if prompt is not None and prompt.reads_text and self.text_prompt.image_conditioned:
            raise ConfigError(
                f'{owner}: {type(prompt).__name__} reads the class embeddings before the image is encoded, and '
                f'{type(self.text_prompt).__name__} makes them of the encoded image. Change one of them.'
            )
        self._register_load_state_dict_pre_hook(self._forget)

    def build_part(self, cfg: dict, class_names: Sequence[str]) -> nn.Module:
        """Build a prompt or head from its config, with what its constructor names of names and towers."""
        return build_part(cfg, class_names=class_names, text_tower=self.text_encoder, image_tower=self.backbone)

    def role(self, kind: type) -> nn.Module | None:
        """The part of the model that has a role of the contract; a part may have several."""
        parts = (self.text_prompt, self.image_prompt, getattr(self, 'head', None), getattr(self, 'loss_function', None))
        return next((part for part in parts if isinstance(part, kind)), None)

    def encode(
        self,
        images: Tensor | ImageFeatures,
        names: Sequence[str],
        classes: Tensor | None = None,
        text: bool = True,
    ) -> tuple[ImageFeatures, Tensor | None]:
        """Prompted features of images, and class embeddings.

        Args:
            images: (B, 3, H, W) normalised, or features that were computed before and are taken as they are, or token
                ids of texts in the place of images, int64 (B, T), which give ``tokens`` and ``global_``.
            names: Of the features, see :meth:`ImageTower.encode`. An image-conditioned text prompt also needs
                ``'global'``.
            classes: Indices (k,) of classes to encode, default all.
            text: Encode the classes, else ``None`` is returned for them.

        Returns:
            Features, and (K, D), (B, K, D), (V, K, D) or (B, V, K, D).
        """
        prompt = self.role(ImagePrompt)
        features, embeddings = images, None
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
            needed = torch.is_grad_enabled() and not (self.frozen_backbone and prompt is None)
            with torch.set_grad_enabled(needed):
                features = self.backbone.encode(images, names, tokens)
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

    def class_embeddings(self, image_features: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        """Class embeddings as the text prompt gives them; encoded once in eval mode.

        Args:
            image_features: (B, D) global features, for prompts that depend on the image.
            classes: Indices (k,) of classes to encode, default all.
        """
        kwargs = {} if classes is None else dict(classes=classes)
        if kwargs or self.training or torch.is_grad_enabled() or self.text_prompt.image_conditioned:
            return self.text_prompt(self.text_encoder, image_features, **kwargs)
        cached = self._class_embeddings
        if cached is None or cached.device != self.text_encoder.logit_scale.device:
            self._class_embeddings = self.text_prompt(self.text_encoder)
        return self._class_embeddings

    def train(self, mode: bool = True):
        """Switch the mode and forget the last class embeddings; a frozen image tower stays in eval mode."""
        self._forget()
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    def _forget(self, *args) -> None:
        self._class_embeddings = None
