"""What learned prompts share that are compared with a hand-written prompt of the same classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.errors import ConfigError


class HandWritten:
    """Mixin of a learned prompt that knows t, its classes' unit embeddings of a hand-written prompt.

    Goes in front of the prompt: ``class Mine(HandWritten, LearnedContext)``. The constructor calls
    :meth:`keep_template`; ``forward`` then keeps t of the classes at hand, which losses compare.

    Attributes:
        written_in_eval: Whether t is wanted in eval mode too.
    """

    written_in_eval = False

    def keep_template(self, text_tower: TextTower, template: str) -> None:
        """Keep the hand-written prompts of all classes as tokens, which no checkpoint holds.

        Args:
            text_tower: Makes the tokens.
            template: With ``{}`` for the class name.

        Raises:
            ConfigError: a template without ``{}``.
        """
        if '{}' not in template:
            raise ConfigError(
                f'{type(self).__name__}: the template needs a {{}} for the class name, found {template!r}.'
            )
        sentences = [template.format(name.replace('_', ' ')) for name in self.class_names]
        self.register_buffer('template_ids', text_tower.tokenize(sentences), persistent=False)
        self._written: Tensor | None = None

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings, see :class:`~vlm_dense.contract.text_prompt.TextPrompt`."""
        if self.training or self.written_in_eval:
            written = self.hand_written(text_tower)
            self._written = written if classes is None else written[classes]
        return super().forward(text_tower, image_features, classes)

    def hand_written(self, text_tower: TextTower) -> Tensor:
        """t, (K, D) unit vectors, float32; the tower keeps what they are made of until its weights change."""
        return F.normalize(text_tower.encode_tokens(self.template_ids).float(), dim=-1).detach()

    def distance(self, class_embeddings: Tensor) -> Tensor:
        """``1 - mean_k cos(w_k, t_k)`` of class embeddings w (K, D) of this iteration."""
        return 1 - F.cosine_similarity(class_embeddings.float(), self._written, dim=-1).mean()
