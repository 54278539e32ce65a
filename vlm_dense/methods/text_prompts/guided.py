"""What a task with CLIP's image tower and a text prompt does about text, whatever it predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS


class TextGuided:
    """Mixin of models whose ``backbone`` is an image tower: builds the text side and encodes the classes.

    Goes in front of the model class: ``class Task(TextGuided, BaseModel)``. In eval mode, without gradient, the classes
    are encoded once; the embeddings are forgotten when the mode changes and when weights are loaded.
    """

    _class_embeddings: Tensor | None = None

    def build_text(self, text_encoder: dict, text_prompt: dict, class_names: Sequence[str] | None) -> None:
        """Set ``text_encoder`` and ``text_prompt``; call it when ``backbone`` is there.

        Raises:
            ClassNamesError: no names.
            ConfigError: a backbone that is no CLIP image tower, or towers of different joint spaces.
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
        self.text_prompt = MODELS.build(
            text_prompt, default_args=dict(class_names=class_names, text_tower=self.text_encoder)
        )
        self._register_load_state_dict_pre_hook(self._forget)

    def class_embeddings(self, image_features: Tensor) -> Tensor:
        """(K, D), or (B, K, D) if the prompt depends on the image; encoded once in eval mode.

        Args:
            image_features: (B, D) global features.
        """
        if self.training or torch.is_grad_enabled() or self.text_prompt.image_conditioned:
            return self.text_prompt(self.text_encoder, image_features)
        cached = self._class_embeddings
        if cached is None or cached.device != image_features.device:
            self._class_embeddings = self.text_prompt(self.text_encoder)
        return self._class_embeddings

    def train(self, mode: bool = True):
        """Switch the mode and forget the class embeddings of the last evaluation."""
        self._forget()
        return super().train(mode)

    def _forget(self, *args) -> None:
        self._class_embeddings = None
