"""The contract of a text prompt: class names in, class embeddings out. See docs/contract.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.errors import ClassNamesError


class TextPrompt(BaseModule):
    """Base of all text prompts.

    A task (segmentor, classifier, detector) builds the text tower once, builds the prompt with
    ``MODELS.build(cfg, default_args=dict(class_names=..., text_tower=...))`` and calls it when it needs class
    embeddings. The prompt keeps its own parameters only; the tower stays the task's and is handed in at each call.

    What follows from the class names is kept in buffers that are not persistent. So the state dict of a prompt loads
    into one for other names, unless each class has parameters of its own; then the shapes differ and it is refused.

    Args:
        class_names: Names in label order.
        text_tower: The tower that will encode the prompts; gives widths, tokens and initial word embeddings.
        init_cfg: mmengine's.

    Attributes:
        image_conditioned: The embeddings depend on the image; then ``forward`` gets image features and returns one
            set of embeddings an image, and nothing is cached at test time.
        num_variants: V prompts of each class, samples or members of an ensemble; ``None`` for one without an axis.
        needs_tower: Whether ``forward`` runs the text tower, so that a task remembers what it gave.
    """

    image_conditioned = False
    needs_tower = True
    num_variants: int | None = None

    def __init__(self, class_names: Sequence[str], text_tower: TextTower, init_cfg: dict | None = None):
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

    def directions(self, class_embeddings: Tensor) -> Tensor:
        """Classifier weights: the L2-normalised class embeddings, unless the method uses the norm."""
        return F.normalize(class_embeddings, dim=-1)

    def combine(self, logits: Tensor) -> Tensor:
        """Logits of all variants (B, V, K, ...) to those of the classes (B, K, ...); the mean by default."""
        return logits.mean(dim=1)

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """The method's own losses, added to the task's; none by default.

        In training a task calls it once after ``forward``, in the same iteration. Other texts that a loss compares with
        are encoded in ``forward``, which has the tower, and kept until here.

        Args:
            class_embeddings: What ``forward`` returned in this iteration; a task may have normalised it.
        """
        return {}
