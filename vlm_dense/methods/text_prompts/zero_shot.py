"""Hand-written prompts and their ensembles.

"Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1.4.

Each class name is put into one or several hand-written sentences. The text tower encodes them, and the mean of their
unit embeddings is the weight of a linear classifier on unit image features. No image of the task is needed, which is
where every other method starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.templates import as_templates

PAPER = dict(
    name='Zero-shot CLIP',
    title='Learning Transferable Visual Models From Natural Language Supervision',
    venue='ICML 2021',
    link='https://arxiv.org/abs/2103.00020',
    code='https://github.com/openai/CLIP',
    licence='MIT',
    idea='Class names in hand-written sentences; nothing is trained.',
    trains='nothing; hand-written prompts',
    published='ImageNet, 80 templates: RN50 59.8, ViT-B/16 68.3',
    contract='templates; (K, D)',
)


@MODELS.register_module()
class ZeroShotPrompt(TextPrompt):
    """Embeds each class in every template, normalises, averages and normalises again.

    Nothing is learned. The sentences are encoded once by the frozen tower and cached there.

    Args:
        class_names, text_tower, init_cfg: See :class:`TextPrompt`. Names are used verbatim, but for the two
            options below.
        templates: Sentences with ``{}`` for the name, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`.
        separators: Characters of names that become spaces, as ``'_'``.
        lowercase: Names are written in lower case.
        truncate: Cut sentences that are longer than the tower's context, of which some have 16 or 32 tokens; else they
            are refused.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        templates: str | Sequence[str] = ('a photo of a {}.',),
        separators: str = '',
        lowercase: bool = False,
        init_cfg: dict | None = None,
        truncate: bool = False,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        templates = as_templates(templates, 'ZeroShotPrompt')
        self.templates = templates
        spaces = str.maketrans(separators, ' ' * len(separators))
        names = [name.translate(spaces) for name in self.class_names]
        names = [name.lower() for name in names] if lowercase else names
        sentences = [t.format(name) for name in names for t in self.templates]
        self.register_buffer('token_ids', text_tower.tokenize(sentences, truncate), persistent=False)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D) of unit length."""
        embeddings = F.normalize(F.normalize(self.sentences(text_tower), dim=-1).mean(dim=1), dim=-1)
        return embeddings if classes is None else embeddings[classes]

    def sentences(self, text_tower: TextTower, project: bool = True) -> Tensor:
        """Embeddings (K, T, D) of each class in each of the T templates, float32, not normalised.

        Args:
            text_tower: The tower.
            project: See :meth:`TextTower.encode_tokens`.
        """
        sentences = text_tower.encode_tokens(self.token_ids, project).float()
        return sentences.unflatten(0, (len(self.class_names), len(self.templates)))
