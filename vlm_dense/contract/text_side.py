"""The text side of a model: text tower, text prompt, image prompt, and their outputs.

The classifier, DenseCLIP and MaskCLIP's head each have one. A model registers the three modules itself, so that their
parameters stand at its top level (``text_encoder.*``, ``text_prompt.*``, ``image_prompt.*``), and gives them to a
:class:`TextSide`, which has no state of its own::

    built = TextSide.build(text_encoder, text_prompt, class_names, image_prompt, self.backbone)
    self.text_encoder, self.text_prompt, self.image_prompt = built.modules

    @property
    def text_side(self) -> TextSide:
        return TextSide(self.text_encoder, self.text_prompt, self.image_prompt)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS, build_part


@dataclass(frozen=True)
class TextSide:
    """Encodes images and class names, and compares them.

    Attributes:
        text_encoder: The text tower; ``None`` where class embeddings are given.
        text_prompt: Any text prompt of the contract.
        image_prompt: Any image prompt of the contract, unless the text prompt is one.
    """

    text_encoder: TextTower | None
    text_prompt: TextPrompt
    image_prompt: nn.Module | None = None

    @classmethod
    def build(
        cls,
        text_encoder: dict,
        text_prompt: dict,
        class_names: Sequence[str],
        image_prompt: dict | None = None,
        image_tower: nn.Module | None = None,
    ) -> TextSide:
        """Build the three from their configs.

        Args:
            text_encoder: ``vlm_dense.TextTower``.
            text_prompt: Any text prompt of the contract.
            class_names: Names in label order, which the owner has checked.
            image_prompt: Any image prompt of the contract.
            image_tower: CLIP's image tower; only inspected. ``None`` for a head that gets features only.

        Raises:
            ConfigError: a backbone that is no CLIP image tower, towers of different joint spaces, or prompts that wait
                for each other.
        """
        if image_tower is not None:
            check_image_tower(type(image_tower))
        if getattr(image_tower, 'image_prompt', None) is not None:
            raise ConfigError(
                f'{type(image_tower.image_prompt).__name__} is the image_prompt of the backbone, but this model '
                'prompts the features itself: move image_prompt out of backbone, beside it.'
            )
        tower = MODELS.build(text_encoder)
        if image_tower is not None and tower.embed_dim != image_tower.embed_dim:
            raise _other_space(image_tower.embed_dim, tower.embed_dim)
        given = dict(class_names=class_names, text_tower=tower, image_tower=image_tower)
        prompt = build_part(text_prompt, **given)
        if image_prompt is not None and isinstance(prompt, ImagePrompt):
            raise ConfigError(
                f'{type(prompt).__name__} already prompts the image tower; leave image_prompt out, or use a text '
                'prompt that is one only.'
            )
        side = cls(tower, prompt, None if image_prompt is None else build_part(image_prompt, **given))
        if side.prompter is not None and side.prompter.reads_text and prompt.image_conditioned:
            raise ConfigError(
                f'{type(side.prompter).__name__} reads the class embeddings before the image is encoded, and '
                f'{type(prompt).__name__} makes them of the encoded image. Change one of them.'
            )
        return side

    @property
    def modules(self) -> tuple[TextTower | None, TextPrompt, nn.Module | None]:
        """Modules that the owner registers: ``text_encoder``, ``text_prompt`` and ``image_prompt``."""
        return self.text_encoder, self.text_prompt, self.image_prompt

    @property
    def prompter(self) -> ImagePrompt | None:
        """The module that prompts the image tower."""
        return self.text_prompt if isinstance(self.text_prompt, ImagePrompt) else self.image_prompt

    def prompt_for(self, cfg: dict, class_names: Sequence[str], image_tower: nn.Module | None = None) -> TextPrompt:
        """The prompt for other class names; it shares the parameters of this one, also with an optimiser.

        Args:
            cfg: That the prompt was built from.
            class_names: Names in label order, which the owner has checked.
            image_tower: For prompts that need it; only inspected.

        Raises:
            ClassNamesError: the prompt has parameters for each of its classes.
        """
        given = dict(class_names=class_names, text_tower=self.text_encoder, image_tower=image_tower)
        prompt = build_part(cfg, **given).to(self.text_encoder.logit_scale.device)
        try:
            prompt.load_state_dict(self.text_prompt.state_dict())
        except RuntimeError as error:
            raise ClassNamesError(
                f'{type(prompt).__name__} has learned something for each of its {len(self.text_prompt.class_names)} '
                f'classes and cannot be used for others: {str(error).splitlines()[1].strip()}'
            ) from error
        for name, parameter in self.text_prompt.named_parameters():
            owner, _, leaf = name.rpartition('.')
            setattr(prompt.get_submodule(owner), leaf, parameter)
        return prompt

    # --- features and class embeddings ----------------------------------------------------------------------------

    def encode(
        self,
        image_tower: ImageTower,
        images: Tensor | ImageFeatures,
        names: Sequence[str],
        classes: Tensor | None = None,
        text: bool = True,
        **options: Any,
    ) -> tuple[ImageFeatures, Tensor | None]:
        """Prompted features of images, and class embeddings.

        Args:
            image_tower: CLIP's.
            images: (B, 3, H, W) normalised, or precomputed features, used directly, or token
                ids of captions used instead of images, int64 (B, T), which give ``tokens`` and ``global_``.
            names: Of the features, see :meth:`ImageTower.encode`; ``'global'`` is added for a text prompt that is
                image-conditioned.
            classes: Indices (k,) of classes to encode, default all.
            text: Encode the classes, else ``None`` is returned for them.
            **options: Of the kind of tower, see its ``encode``.

        Returns:
            Features, and (K, D), (B, K, D), (V, K, D) or (B, V, K, D).
        """
        if isinstance(images, ImageFeatures):
            return images, self.class_embeddings(images.global_, classes) if text else None
        if not images.is_floating_point():
            features = self.encode_captions(images)
            return features, self.class_embeddings(features.global_, classes) if text else None
        if self.text_prompt.image_conditioned and 'global' not in names:
            names = (*names, 'global')
        prompter, embeddings, tokens = self.prompter, None, None
        if prompter is not None:
            plain = None
            if prompter.plain:
                with torch.no_grad():
                    plain = image_tower.encode(images, prompter.plain)
            if prompter.reads_text:
                embeddings = self.class_embeddings(None, classes)
            images, tokens = prompter.prompt(images, embeddings, plain)
        trained = prompter is not None or any(p.requires_grad for p in image_tower.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features = image_tower.encode(images, names, tokens, **options)
        features.prompts = tokens
        if text and embeddings is None:
            embeddings = self.class_embeddings(features.global_, classes)
        return features, embeddings

    def encode_captions(self, ids: Tensor) -> ImageFeatures:
        """Encode captions used instead of images, int64 (B, T), as the tower's tokenizer makes them.

        Raises:
            ConfigError: a prompt of the image tower, which is not run, or ids of another tokenizer.
        """
        if self.prompter is not None:
            raise ConfigError(
                f'{type(self.prompter).__name__} prompts the image tower, and captions used instead of images do not '
                'pass it. Leave the prompt out.'
            )
        tower = self.text_encoder
        if ids[:, : tower.num_start].tolist() != [[*tower.tokenizer.start]] * len(ids):
            raise ConfigError(
                f'the captions begin with the tokens {ids[0, : tower.num_start].tolist()}, those of the text tower '
                f'{tower.arch!r} with {[*tower.tokenizer.start]}. Give CaptionDataset the arch and tokenizer of '
                'text_encoder.'
            )
        end = tower.find_eot(ids)
        ids = ids[:, : int(end.max()) + 1]
        tokens = tower.token_features(ids)
        if tower.kind.reads == 'end':
            rows = torch.arange(len(ids), device=tokens.device)
            whole = tokens[rows, end.to(tokens.device)]
        else:
            whole = tower.encode_tokens(ids)
        return ImageFeatures(global_=whole, tokens=tokens, padding=ids == tower.tokenizer.padding)

    def class_embeddings(self, image_features: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        """Class embeddings of the text prompt.

        In eval mode, without gradient, they are cached until the weights that they depend on change.

        Args:
            image_features: (B, D) global features, for prompts that depend on the image.
            classes: Indices (k,) of classes to encode, default all.
        """
        prompt, tower = self.text_prompt, self.text_encoder
        if prompt.image_conditioned and image_features is None:
            raise ConfigError(
                f'{type(prompt).__name__} depends on the image; the backbone must give its global feature: '
                "features=('value', 'global')."
            )
        if classes is not None:
            return prompt(tower, image_features, classes=classes)
        if prompt.training or torch.is_grad_enabled() or prompt.image_conditioned or not prompt.needs_tower:
            return prompt(tower, image_features)
        return tower.remember(lambda: prompt(tower), prompt)

    def classifier_weights(self) -> Tensor:
        """Classifier weights from class embeddings, float32: of unit length, unless the prompt overrides it."""
        return self.text_prompt.classifier_weights(self.class_embeddings().float())

    # --- comparison -----------------------------------------------------------------------------------------------

    def scores(self, dense: Tensor, class_embeddings: Tensor) -> Tensor:
        """Cosines of positions and classes, float32, of every variant of the prompt.

        They are computed in float32, as the rounding of half precision exceeds the differences between classes.

        Args:
            dense: (B, D, h, w), not normalised.
            class_embeddings: (K, D) or (B, K, D); with V variants (V, K, D) or (B, V, K, D).

        Returns:
            (B, K, h, w), or (B, V, K, h, w).

        Raises:
            ConfigError: images and classes are not in one joint space.
        """
        if dense.shape[1] != class_embeddings.shape[-1]:
            raise _other_space(dense.shape[1], class_embeddings.shape[-1])
        with torch.autocast(dense.device.type, enabled=False):
            weights = self.text_prompt.classifier_weights(class_embeddings.float())
            axes = 2 if self.text_prompt.num_variants is None else 3
            weights = weights.expand(dense.shape[0], *weights.shape[-axes:])
            return torch.einsum('bdhw,b...d->b...hw', F.normalize(dense.float(), dim=1), weights)

    def combine(self, scores: Tensor) -> Tensor:
        """Scores of the classes (B, K, ...) of those of all variants (B, V, K, ...); without variants the same."""
        if self.text_prompt.num_variants is None:
            return scores
        with torch.autocast(scores.device.type, enabled=False):
            return self.text_prompt.reduce_variants(scores)


def check_image_tower(kind: type, known: Sequence[str] = ('vlm_dense.CLIPResNet', 'vlm_dense.CLIPViT')) -> None:
    """Refuse a backbone that is no CLIP image tower.

    Args:
        kind: Of the backbone.
        known: Names to choose from, for the message.

    Raises:
        ConfigError: it is none.
    """
    if not issubclass(kind, ImageTower):
        raise ConfigError(f'the backbone must be {" or ".join(map(repr, known))}, found {kind.__name__}.')


def refuse_head(head: dict | None, owner: str) -> None:
    """Refuse a head of the contract where positions are compared and not images.

    Raises:
        ConfigError: there is one.
    """
    if head is not None:
        raise ConfigError(
            f"{owner}: a head of the contract makes logits of whole images, for 'vlm_dense.CLIPClassifier'. Leave head "
            'out; per pixel, class embeddings are chosen by text_prompt and logits made by decode heads.'
        )


def _other_space(image_dim: int, text_dim: int) -> ConfigError:
    return ConfigError(
        f'image and text tower must share one joint space, found {image_dim} and {text_dim} dimensions. Use the same '
        'arch for backbone and text_encoder.'
    )
