"""The contract of everything but text prompts: image prompts, heads, losses, test time. See docs/contract.md.

The roles are mixins with one method each, so that a module may have several of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, PromptTokens
from vlm_dense.errors import DataError
from vlm_dense.registry import MODELS


class ImagePrompt:
    """Mixin of modules that change images or add tokens to the image tower; alone ``class X(ImagePrompt, BaseModule)``.

    Attributes:
        plain: Features of the tower without prompts that :meth:`prompt` reads.
        reads_text: :meth:`prompt` reads the class embeddings.
    """

    plain: tuple[str, ...] = ()
    reads_text = False

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens | None]:
        """Input of the image tower.

        Args:
            images: (B, 3, H, W), normalised.
            text: Class embeddings (K, D) of this iteration if ``reads_text``.
            plain: The features named by ``plain``, without gradient.

        Returns:
            Images (B, 3, H, W), changed or not, and tokens or ``None``.
        """
        raise NotImplementedError

    def training_batch(self, data_samples: list) -> None:
        """Samples of the images that :meth:`prompt` is given next; called in training, read by few."""


class Head:
    """Mixin of modules from features to logits: adapters, caches, classifiers; alone ``class X(Head, BaseModule)``.

    Attributes:
        features: Names of the image features that :meth:`logits` reads.
        text: :meth:`logits` reads the class embeddings; else the text tower is not run.
        cosines: The logits are CLIP's, scaled cosines of images and classes. A model with a text tower that was trained
            with a sigmoid then adds its bias, so that 0 is a probability of 1/2; softmax and argmax do not see it.
    """

    features: tuple[str, ...] = ('global',)
    text = True
    cosines = False

    def logits(self, features: ImageFeatures, text: Tensor | None, logit_scale: Tensor) -> Tensor:
        """Logits of a batch, float32, with autocast switched off.

        Args:
            features: Of B images, float32.
            text: Classifier weights, float32, of unit length unless the prompt overrides it: (K, D),
                (B, K, D) if they depend on the image, (1 or B, V, K, D) for V variants of the prompt.
            logit_scale: Scalar, the factor itself (100 for CLIP).

        Returns:
            (B, K), or (B, V, K), which the text prompt then combines.
        """
        raise NotImplementedError


@MODELS.register_module()
class CosineHead(Head, BaseModule):
    """CLIP's own classifier: the scaled cosine of the image's feature and the class (ICML 2021, section 3.1.2)."""

    cosines = True

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K)."""
        image = F.normalize(features.global_, dim=-1)
        cosine = image @ text.T if text.dim() == 2 else torch.einsum('bd,b...d->b...', image, text)
        return logit_scale * cosine


def labels_of(data_samples: Sequence, num_classes: int) -> Tensor:
    """Classes of images, int64 (B,).

    Raises:
        DataError: an image without label, or one outside of the classes; names the image.
    """
    bare = next((sample for sample in data_samples if 'gt_label' not in sample), None)
    if bare is not None:
        raise DataError(
            f'{bare.get("img_path", "An image")} has no gt_label to train with. Drawn scenes have one if '
            'num_objects=(1, 1).'
        )
    labels = torch.stack([sample.gt_label for sample in data_samples])
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        sample = data_samples[int(wrong.nonzero()[0])]
        raise DataError(
            f'{sample.get("img_path", "An image")} has the label {int(sample.gt_label)}; expected 0 to '
            f'{num_classes - 1} for {num_classes} classes. Fix the label, or name all classes.'
        )
    return labels


@dataclass
class Step:
    """Intermediate results of an iteration, for its loss.

    Attributes:
        images: (B, 3, H, W), normalised input; ``None`` if the input are features.
        features: Image features read by the head.
        text: Class embeddings of the text prompt; ``None`` if the head reads none.
        logits: (B, K), or (B, k) for the k classes of :meth:`Loss.classes`.
        logit_scale: Scalar, the factor itself.
        data_samples: B samples.
        class_names: All K names.
        classes: Indices of :meth:`Loss.classes`, int64 (k,); ``None``: all.
        variants: (B, V, K), logits of all variants; ``None`` if the head returns one for each class.
        epoch: Number of finished epochs; 0 outside of a run.
    """

    images: Tensor | None
    features: ImageFeatures
    text: Tensor | None
    logits: Tensor
    logit_scale: Tensor
    data_samples: list
    class_names: tuple[str, ...]
    classes: Tensor | None = None
    variants: Tensor | None = None
    epoch: int = 0

    def labels(self) -> Tensor:
        """Classes of the images, int64 (B,), checked by :func:`labels_of`."""
        return labels_of(self.data_samples, len(self.class_names))

    def multi_hot_labels(self) -> Tensor:
        """Whether each class of the step is shown: int64 (B, K) or (B, k) of 1, 0 and -1 for unknown.

        Raises:
            DataError: an image without ``gt_labels``, or with a wrong number of them; names the image.
        """
        for sample in self.data_samples:
            found = len(sample.gt_labels) if 'gt_labels' in sample else 'no'
            if found != len(self.class_names):
                raise DataError(
                    f'{sample.get("img_path", "An image")} has {found} gt_labels, expected one for each of '
                    f'{len(self.class_names)} classes. Data with several labels an image are packed by '
                    'PackClsInputs(multi_label=True).'
                )
        labels = torch.stack([sample.gt_labels for sample in self.data_samples])
        return labels if self.classes is None else labels[:, self.classes]


class Loss(BaseModule):
    """Base of what a classifier is trained with."""

    def classes(self, data_samples: list) -> Tensor | None:
        """Classes to encode in this step, int64 indices (k,); ``None``: all."""
        return None

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Losses by name; names with ``loss`` in them are summed up."""
        raise NotImplementedError


@MODELS.register_module()
class CrossEntropy(Loss):
    """Mean cross-entropy of logits and labels, ``loss_ce``.

    Args:
        label_smoothing: As in torch.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_ce``."""
        return dict(loss_ce=F.cross_entropy(step.logits, step.labels(), label_smoothing=self.label_smoothing))


class TestTimeAdaptation(BaseModule):
    """Base of what adapts a classifier to one image before it classifies that image."""

    __test__ = False  # pytest takes the name for a test

    def logits(self, model: nn.Module, views: Tensor) -> Tensor:
        """Logits of one image; ``model`` stays unchanged, also after an error.

        Args:
            model: The classifier, in eval mode.
            views: (N, 3, H, W) normalised, the plain one first.

        Returns:
            (1, K).
        """
        raise NotImplementedError
