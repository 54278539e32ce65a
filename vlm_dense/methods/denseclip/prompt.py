"""DenseCLIP's language-domain prompting.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.2, equation (2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.errors import ClassNamesError
from vlm_dense.registry import MODELS


@MODELS.register_module()
class DenseCLIPPrompt(TextPrompt):
    """``[SOS] v_1 .. v_N name [EOT]`` with N learned vectors that all classes share.

    Differs from CoOp in that there is no full stop, the text is short and the vectors start large.

    Args:
        class_names, text_tower, init_cfg: See :class:`TextPrompt`.
        num_contexts: N.
        name_length: Longest class name in tokens, with the start and end token; DenseCLIP's ``context_length``.
        std: Standard deviation of the initial vectors, cut at two units as in the official code.

    Raises:
        ClassNamesError: a name longer than ``name_length``, or N + ``name_length`` beyond the tower's positions.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_contexts: int = 8,
        name_length: int = 5,
        std: float = 1.0,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        if num_contexts + name_length > text_tower.context_length:
            raise ClassNamesError(
                f'DenseCLIPPrompt: num_contexts + name_length = {num_contexts} + {name_length} tokens do not fit the '
                f"text tower's context_length of {text_tower.context_length}. Raise the tower's context_length (up to "
                f'{text_tower.longest}) or use fewer contexts.'
            )
        try:
            token_ids = text_tower.tokenizer(list(self.class_names), name_length)
        except ClassNamesError as error:
            raise ClassNamesError(
                f'DenseCLIPPrompt, name_length={name_length}: {error} Here the limit is text_prompt.name_length; the '
                "text tower's context_length must be at least num_contexts + name_length."
            ) from error
        self.register_buffer('token_ids', token_ids, persistent=False)
        self.contexts = nn.Parameter(torch.empty(1, num_contexts, text_tower.width))
        nn.init.trunc_normal_(self.contexts, std=std)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        token_ids = self.token_ids if classes is None else self.token_ids[classes]
        embeddings = text_tower.embed(token_ids)
        start = text_tower.num_start
        prefix = torch.cat([embeddings[0, :start], self.contexts[0]])
        end = text_tower.find_eot(token_ids) - start
        return text_tower.encode(embeddings[:, start:], end, prefix=prefix)
