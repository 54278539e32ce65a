"""CuPL: sentences of a language model instead of templates.

A hand-written template is the same for every class. CuPL asks a large language model a few questions on the appearance
of each class and uses its answers as prompts. The class embedding is the mean of the unit embeddings of these
sentences; nothing is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.sentences import SentencePrompt, read_texts, texts_of_classes
from vlm_dense.errors import DataError
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.templates import as_templates

PAPER = dict(
    name='CuPL',
    title='What does a platypus look like? Generating customized prompts for zero-shot image classification',
    venue='ICCV 2023',
    link='https://arxiv.org/abs/2209.03320',
    code='https://github.com/sarahpratt/CuPL',
    licence='none',
    idea=(
        'A language model is asked how each class looks; its sentences are embedded as they are, and a class is the '
        'normalised mean of its unit embeddings. Nothing is trained. With `templates` hand-written sentences join, '
        'each with the same weight.'
    ),
    trains='nothing; sentences of a language model',
    published='ImageNet, ViT-L/14: 76.7; 80 templates 75.5',
    contract='JSON of sentences by class text; (K, D); each sentence weighs the same',
    notes="""
For another set, as `--datasets dtd` of `tools/compare.py`, the file is `data/cupl/dtd.json`.

Sentences are a JSON object, class text to list of whole sentences: `{"lighthouse": ["A tall white tower by the
sea."]}`. `python tools/describe_classes.py NAMES --layout cupl` writes the questions for any language model and makes
the file of its answers. Sentences about Shapes and CamVid, written for this project, are in
`vlm_dense/data/sentences`.

| ImageNet, ViT-L/14, top-1, published | |
|---|---|
| 80 hand-written templates | 75.5 |
| CuPL, 3 questions | 76.2 |
| CuPL, questions for the data set | 76.7 |
""",
)


@MODELS.register_module()
class CuPLPrompt(SentencePrompt):
    """The normalised mean of the unit embeddings of all sentences of a class (section 3); nothing is learned.

    Sentences longer than the tower's ``context_length`` are cut, as in the official code; the log says how many.

    Args:
        class_names, text_tower, init_cfg: See :class:`TextPrompt`. A class is looked up by its name, where ``_`` may
            stand for a space.
        sentences: Path of a file in CuPL's layout, a JSON object class text -> list of whole sentences;
            the name of one in ``vlm_dense/data/sentences``, as 'shapes'; or the object itself.
        templates: Hand-written sentences with ``{}`` for the class text, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`; they join the others, each with the same weight.

    Raises:
        DataError: a file of another layout, a class without sentences, an empty list, an empty sentence, or one with
            ``{}`` in it, which is a template.
        ConfigError: a template without ``{}``.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        sentences: str | Mapping[str, Sequence[str]],
        templates: str | Sequence[str] = (),
        init_cfg: dict | None = None,
    ):
        templates = as_templates(templates, 'CuPLPrompt') if templates else ()
        found = texts_of_classes(read_texts(sentences, 'sentences'), class_names)
        for text, written in found:
            wrong = [sentence for sentence in written if '{}' in sentence or not sentence.strip()]
            if wrong or not written:
                what = f'the sentence {wrong[0]!r}' if wrong else 'an empty list'
                raise DataError(
                    f'CuPLPrompt: the class {text!r} has {what}. Expected whole sentences, at least one a class; '
                    'sentences with {} are templates.'
                )
        every = [
            [*(template.format(text.replace('_', ' ')) for template in templates), *written] for text, written in found
        ]
        super().__init__(class_names, text_tower, every, truncate=True, init_cfg=init_cfg)
        full = text_tower.find_eot(self.token_ids) == self.token_ids.shape[1] - 1
        if full.any():
            print_log(
                f'CuPLPrompt: {int(full.sum())} of {len(full)} sentences fill the {text_tower.context_length} tokens '
                'of the text context or were cut to them.',
                logger='current',
                level=logging.WARNING,
            )

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D) of unit length."""
        embeddings = F.normalize(self.mean_by_class(self.unit_sentences(text_tower)), dim=-1)
        return embeddings if classes is None else embeddings[classes]
