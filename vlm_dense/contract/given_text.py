"""Class embeddings that are given and not computed: of a file of a release, or those that an exported model keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_dense.contract.text_prompt import TextPrompt


class GivenText(TextPrompt):
    """A text prompt without a text tower.

    Args:
        class_names: Names in label order.
        embeddings: As a prompt returns them, (K, D), or (V, K, D) with variants.
        like: The prompt that they come from, which says how they are compared; default: by cosines. It is looked at and
            no part of this module.
    """

    needs_tower = False

    def __init__(self, class_names: Sequence[str], embeddings: Tensor, like: TextPrompt | None = None):
        super().__init__(class_names, None)
        self.register_buffer('embeddings', embeddings, persistent=False)
        self._like = (like,)
        self.num_variants = None if like is None else like.num_variants

    def forward(
        self, text_tower: nn.Module | None, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """The embeddings as they were given."""
        return self.embeddings if classes is None else self.embeddings[..., classes, :]

    def directions(self, class_embeddings: Tensor) -> Tensor:
        """As the prompt that they come from."""
        like = self._like[0]
        return super().directions(class_embeddings) if like is None else like.directions(class_embeddings)

    def combine(self, logits: Tensor) -> Tensor:
        """As the prompt that they come from."""
        like = self._like[0]
        return super().combine(logits) if like is None else like.combine(logits)


class GivenTower(nn.Module):
    """What a task reads of a text tower whose class embeddings are given.

    Args:
        logit_scale: Logarithm of the factor of cosines, ().
        embed_dim: D.
    """

    def __init__(self, logit_scale: Tensor, embed_dim: int):
        super().__init__()
        self.register_buffer('logit_scale', torch.as_tensor(logit_scale).detach().clone())
        self.embed_dim = embed_dim
