"""A classifier of images by class names."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.errors import DataError
from vlm_dense.methods.text_prompts.guided import TextGuided
from vlm_dense.registry import MODELS


@MODELS.register_module()
class CLIPClassifier(TextGuided, BaseModel):
    """Logits are the scaled cosines of an image's feature and the class embeddings.

    Call graph::

        loss / predict / tensor --> image_features: backbone.encode, (B, D)
                                        class_embeddings: text_prompt, text_encoder; cached in eval mode
                                        logits = exp(logit_scale) * cosine, (B, K)
        loss = cross-entropy of the logits + prompt.* (the text prompt's own)

    Args:
        backbone: ``vlm_dense.CLIPViT`` with ``head=True`` or ``vlm_dense.CLIPResNet`` with ``attnpool=True``.
        text_encoder: ``vlm_dense.TextTower``; its ``logit_scale`` is used and never trained.
        text_prompt: Any text prompt of the contract.
        class_names: Names in label order. ``tools/train.py`` and ``tools/test.py`` fill in the data set's.
        frozen_backbone: No gradients to the image tower, always in eval mode.
        data_preprocessor: As in mmengine, ``mmengine.ImgDataPreprocessor``.
        init_cfg: mmengine's.

    Raises:
        ClassNamesError: no names.
        ConfigError: a backbone that is no CLIP image tower, or towers of different joint spaces.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        class_names: Sequence[str] | None = None,
        frozen_backbone: bool = True,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
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
        self.build_text(text_encoder, text_prompt, class_names)
        self.class_names = tuple(class_names)
        if frozen_backbone:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> CLIPClassifier:
        """Switch the mode; a frozen image tower stays in eval mode."""
        super().train(mode)
        if self.frozen_backbone:
            self.backbone.eval()
        return self

    # --- features, class embeddings, logits -----------------------------------------------------------------------

    def image_features(self, inputs: Tensor) -> Tensor:
        """Global features (B, D), not normalised, of images (B, 3, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_backbone):
            return self.backbone.encode(inputs, ('global',)).global_

    def logits(self, image_features: Tensor, class_embeddings: Tensor) -> Tensor:
        """Scaled cosines (B, K), float32.

        Args:
            image_features: (B, D).
            class_embeddings: (K, D) or (B, K, D).
        """
        with torch.autocast(image_features.device.type, enabled=False):  # a scale of 100 magnifies rounding
            image = F.normalize(image_features.float(), dim=-1)
            text = F.normalize(class_embeddings.float(), dim=-1)
            cosine = torch.einsum('bd,bkd->bk', image, text) if text.dim() == 3 else image @ text.T
            return self.text_encoder.logit_scale.exp() * cosine

    # --- the runner's modes ---------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, data_samples: list[ClsDataSample] | None = None, mode: str = 'tensor'):
        """Losses, predictions or logits of normalised images.

        Args:
            inputs: (B, 3, H, W).
            data_samples: B samples, with ``gt_label`` for ``'loss'``.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'`` (logits (B, K)).
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        features = self.image_features(inputs)
        logits = self.logits(features, self.class_embeddings(features))
        return self.predict(logits, data_samples) if mode == 'predict' else logits

    def loss(self, inputs: Tensor, data_samples: list[ClsDataSample]) -> dict[str, Tensor]:
        """``loss_ce`` and ``prompt.*``.

        Raises:
            DataError: no label, or one outside of the classes.
        """
        features = self.image_features(inputs)
        text = self.class_embeddings(features)
        logits = self.logits(features, text)
        losses = dict(loss_ce=F.cross_entropy(logits, self._labels(data_samples)))
        losses.update({f'prompt.{k}': v for k, v in self.text_prompt.losses(text).items()})
        return losses

    def predict(self, logits: Tensor, data_samples: list[ClsDataSample] | None = None) -> list[ClsDataSample]:
        """Samples with ``pred_scores`` and ``pred_label``, of logits (B, K)."""
        samples = data_samples or [ClsDataSample() for _ in logits]
        for sample, scores in zip(samples, logits, strict=True):
            sample.pred_scores = scores
            sample.pred_label = scores.argmax()
        return samples

    def _labels(self, data_samples: list[ClsDataSample]) -> Tensor:
        bare = next((sample for sample in data_samples if 'gt_label' not in sample), None)
        if bare is not None:
            raise DataError(
                f'{bare.get("img_path", "An image")} has no gt_label to train with. Drawn scenes have one if '
                'num_objects=(1, 1).'
            )
        labels = torch.stack([sample.gt_label for sample in data_samples])
        wrong = (labels < 0) | (labels >= len(self.class_names))
        if wrong.any():
            sample = data_samples[int(wrong.nonzero()[0])]
            raise DataError(
                f'{sample.get("img_path", "An image")} has the label {int(sample.gt_label)}; expected 0 to '
                f'{len(self.class_names) - 1} for {len(self.class_names)} classes. Mend the label, or name all classes.'
            )
        return labels
