"""A classifier of images by class names."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.preprocessing import colours_of_tag
from vlm_dense.contract.roles import Head, Loss, Step
from vlm_dense.contract.text_side import TextSide
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS, build_part
from vlm_dense.vocabulary.class_names import one_name_each


@MODELS.register_module()
class CLIPClassifier(BaseModel):
    """Images to logits by the roles of the contract (docs/contract.md); independent of the methods.

    Call graph::

        loss / predict / tensor --> text_side.encode: image_prompt.prompt, backbone.encode --> features
                                |                     text_prompt, text_encoder, cached in eval mode --> embeddings
                                --> logits: head.logits(features, embeddings), (B, K)
        loss = loss(Step) + prompt.* (the text prompt's own)
        predict, with test_time: test_time.logits, image by image

    Args:
        backbone: ``vlm_dense.CLIPViT`` with ``head=True`` or ``vlm_dense.CLIPResNet`` with ``attnpool=True``.
        text_encoder: ``vlm_dense.TextTower``; its ``logit_scale`` is used and never trained.
        text_prompt: Any text prompt of the contract, also one with further roles.
        image_prompt: Any image prompt of the contract.
        head: Any head of the contract. Default: the text prompt if it is one, else the scaled cosine.
        loss: Any loss of the contract. Default: a part that is one, else the cross-entropy.
        test_time: Any test-time adaptation of the contract; then images to predict come as views (B, N, 3, H, W),
            and nothing is trained.
        class_names: Names in label order. ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        frozen_backbone: No gradients to the image tower, always in eval mode.
        trainable: Regular expressions; parameters of a frozen image tower with a match in their name are trained, as
            ``'ln_[12]'``. Not with features instead of images.
        data_preprocessor: ``vlm_dense.ClsDataPreprocessor``, or as in mmengine.
        init_cfg: mmengine's.

    Raises:
        ClassNamesError: no names.
        ConfigError: a backbone that is no CLIP image tower, towers of different joint spaces, two parts of one role, or
            ``trainable`` where it changes nothing.

    Examples:
        >>> clip = dict(arch='tiny-vit', pretrained='bundled')
        >>> model = CLIPClassifier(
        ...     backbone=dict(type='vlm_dense.CLIPViT', head=True, **clip),
        ...     text_encoder=dict(type='vlm_dense.TextTower', **clip),
        ...     text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=4),
        ...     class_names=['circle', 'star'],
        ... )
        >>> model(torch.zeros(3, 3, 96, 96)).shape
        torch.Size([3, 2])
    """

    repeated_names = True
    """Whether classes may have equal names, as those of ImageNet have."""

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        image_prompt: dict | None = None,
        head: dict | None = None,
        loss: dict | None = None,
        test_time: dict | None = None,
        class_names: str | Sequence[str] | None = None,
        frozen_backbone: bool = True,
        trainable: Sequence[str] = (),
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        class_names = one_name_each(class_names, repeated=self.repeated_names)
        super().__init__(colours_of_tag(data_preprocessor, backbone), init_cfg)
        twice = [name for name, count in Counter(class_names or ()).items() if count > 1]
        if twice:  # the curated names of ImageNet hold two such pairs, so this is no error
            print_log(
                f'CLIPClassifier: several classes are named {", ".join(map(repr, twice[:5]))}. Prompts that classes '
                'share cannot tell them apart: the first of them is predicted.',
                logger='current',
                level=logging.WARNING,
            )
        self.frozen_backbone = frozen_backbone
        self.backbone = MODELS.build(backbone)
        built = TextSide.build(text_encoder, text_prompt, class_names, image_prompt, self.backbone)
        self.text_encoder, self.text_prompt, self.image_prompt = built.modules
        self.class_names = tuple(class_names)
        if head is not None and self.role(Head) is not None:
            raise ConfigError(
                f'CLIPClassifier: {type(self.role(Head)).__name__} already makes the logits; leave head out.'
            )
        if self.role(Head) is None:
            self.head = self.build_part(head or dict(type='vlm_dense.CosineHead'), class_names)
        if loss is not None and self.role(Loss) is not None:
            raise ConfigError(f'CLIPClassifier: {type(self.role(Loss)).__name__} is its own loss; leave loss out.')
        if self.role(Loss) is None:
            self.loss_function = MODELS.build(loss or dict(type='vlm_dense.CrossEntropy'))
        self.test_time = None if test_time is None else self.build_part(test_time, class_names)
        if frozen_backbone:
            self.backbone.requires_grad_(False).eval()
        self._free(trainable)
        if test_time is not None:  # what is adapted is a copy
            self.requires_grad_(False)

    def _free(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            found = [p for name, p in self.backbone.named_parameters() if re.search(pattern, name)]
            if not found or not self.frozen_backbone:
                why = 'no parameter of the image tower has such a name' if self.frozen_backbone else 'all are trained'
                raise ConfigError(f'CLIPClassifier: trainable={pattern!r} changes nothing: {why}. Leave it out.')
            for parameter in found:
                parameter.requires_grad_(True)

    def build_part(self, cfg: dict, class_names: Sequence[str]) -> nn.Module:
        """Build a prompt or head, with those of the names and the towers that its constructor accepts."""
        return build_part(cfg, class_names=class_names, text_tower=self.text_encoder, image_tower=self.backbone)

    def role(self, kind: type) -> nn.Module | None:
        """The first of ``text_prompt``, ``image_prompt``, ``head`` and loss that is an instance of ``kind``."""
        parts = (self.text_prompt, self.image_prompt, getattr(self, 'head', None), getattr(self, 'loss_function', None))
        return next((part for part in parts if isinstance(part, kind)), None)

    def train(self, mode: bool = True) -> CLIPClassifier:
        """Switch the mode; a frozen image tower stays in eval mode."""
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    # --- features, class embeddings, logits -----------------------------------------------------------------------

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompts."""
        return TextSide(self.text_encoder, self.text_prompt, self.image_prompt)

    def image_features(self, inputs: Tensor | ImageFeatures) -> ImageFeatures:
        """Prompted features of images (B, 3, H, W) that head and text prompt read."""
        return self.text_side.encode(self.backbone, inputs, self.role(Head).features, text=False)[0]

    def scores(self, inputs: Tensor | ImageFeatures) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) without ``test_time``, float32."""
        head = self.role(Head)
        return self.logits(*self.text_side.encode(self.backbone, inputs, head.features, text=head.text))

    def logits(self, features: ImageFeatures, class_embeddings: Tensor | None) -> Tensor:
        """Logits (B, K), float32.

        Args:
            features: Of B images.
            class_embeddings: As the text prompt gives them; (1, K, D) serves all images, as (K, D) does.
        """
        return self._combine(self.variant_logits(features, class_embeddings))

    def variant_logits(self, features: ImageFeatures, class_embeddings: Tensor | None) -> Tensor:
        """As :meth:`logits`, but (B, V, K) where the text prompt has variants that the head leaves to it."""
        prompt, text = self.text_prompt, class_embeddings
        with torch.autocast(self.text_encoder.logit_scale.device.type, enabled=False):  # 100 magnifies rounding
            if text is not None:
                text = prompt.classifier_weights(text.float())
                if prompt.num_variants is not None and text.dim() == 3:
                    text = text[None]
            head, bias = self.role(Head), self.text_encoder.logit_bias
            logits = head.logits(features.float(), text, self.text_encoder.logit_scale.exp())
            return logits + bias if head.cosines and bias is not None else logits

    def _combine(self, logits: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return self.text_prompt.reduce_variants(logits) if logits.dim() == 3 else logits

    # --- the runner's modes ---------------------------------------------------------------------------------------

    def forward(
        self,
        inputs: Tensor | ImageFeatures,
        data_samples: list[ClsDataSample] | None = None,
        mode: str = 'tensor',
    ):
        """Losses, predictions or logits of normalised images.

        Args:
            inputs: (B, 3, H, W), features of B images, or, to predict with ``test_time``, views (B, N, 3, H, W).
            data_samples: B samples, with labels for ``'loss'``.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'`` (logits (B, K)).
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if self.test_time is not None:
            logits = torch.cat([self.test_time.logits(self, views) for views in inputs])
        else:
            logits = self.scores(inputs)
        return self.predict(logits, data_samples) if mode == 'predict' else logits

    def loss(self, inputs: Tensor | ImageFeatures, data_samples: list[ClsDataSample]) -> dict[str, Tensor]:
        """Losses of ``loss``, and ``prompt.*`` of the prompt.

        Raises:
            DataError: no label, or one outside of the classes.
        """
        side, head, loss = self.text_side, self.role(Head), self.role(Loss)
        classes = loss.classes(data_samples)
        for part in (self.text_prompt, self.image_prompt):
            if hasattr(part, 'training_batch'):
                part.training_batch(data_samples)
        features, text = side.encode(self.backbone, inputs, head.features, classes, head.text)
        variants = self.variant_logits(features, text)
        step = Step(
            images=None if isinstance(inputs, ImageFeatures) else inputs,
            features=features,
            text=text,
            logits=self._combine(variants),
            variants=variants if variants.dim() == 3 else None,
            logit_scale=self.text_encoder.logit_scale.exp(),
            data_samples=data_samples,
            class_names=self.class_names,
            classes=classes,
            epoch=MessageHub.get_current_instance().get_info('epoch', 0),
        )
        losses = dict(loss(step))
        if text is not None:
            losses.update({f'prompt.{k}': v for k, v in self.text_prompt.losses(text).items()})
        return losses

    def predict(self, logits: Tensor, data_samples: list[ClsDataSample] | None = None) -> list[ClsDataSample]:
        """Samples with ``pred_scores`` and ``pred_label``, of logits (B, K)."""
        samples = data_samples or [ClsDataSample() for _ in logits]
        for sample, scores in zip(samples, logits, strict=True):
            sample.pred_scores = scores
            sample.pred_label = scores.argmax()
        return samples
