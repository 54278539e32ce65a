"""Visual classification via description: a class is what a language model lists of its looks.

A large language model lists visual features of each class, and each feature becomes a sentence with the class name.
The score of a class is the mean cosine of the image and the sentences of the class, so the parts of the mean explain
the decision. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.sentences import SentencePrompt, read_texts, texts_of_classes
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS, unknown_name

PAPER = dict(
    name='VCD',
    title='Visual Classification via Description from Large Language Models',
    venue='ICLR 2023',
    link='https://arxiv.org/abs/2210.07183',
    code='https://github.com/sachit-menon/classify_by_description_release',
    licence='none',
    idea=(
        'A language model lists what a class looks like; each descriptor becomes a sentence with the class name, and '
        'the score of a class is the mean cosine of the image and its sentences. Nothing is trained. The mean is that '
        'of scores, not of directions: a class with descriptors that agree has a longer vector, which sets this '
        'method apart from CuPL.'
    ),
    trains="nothing; a language model's descriptors",
    published='ImageNet, ViT-B/16: 68.0; the name alone 64.1',
    contract='JSON of descriptors; (K, D) with `classifier_weights`',
    notes="""
For another set, as `--datasets dtd` of `tools/compare.py`, the file is `data/vcd/dtd.json`.

Descriptors are a JSON object, class to list of phrases: `{"tree frog": ["bright green skin", "orange eyes"]}`.
`python tools/describe_classes.py NAMES --layout vcd` writes the questions for any language model and makes the file
of its answers. Descriptors of Shapes and CamVid, written for this project, are in `vlm_dense/data/descriptors`.

| ImageNet, top-1, published | ViT-B/32 | ViT-B/16 | ViT-L/14 |
|---|---|---|---|
| class name alone | 58.5 | 64.1 | 71.6 |
| descriptors | 63.0 | 68.0 | 75.0 |

The 80 hand-written templates give 63.3, 68.3 and 75.5.
""",
)


INCLUSIONS = ('prepend', 'append', 'none', None)
AGGREGATES = ('mean', 'max', 'sum')


def clause(phrase: str) -> str:
    """'orange eyes' -> 'which has orange eyes'; by the letters that the phrase begins with, as in the official code."""
    if phrase.startswith('a'):  # 'a small amphibian', and 'antlers' too
        return f'which is {phrase}'
    if phrase.startswith(('has', 'often', 'typically', 'may', 'can')):
        return f'which {phrase}'
    return f'which is {phrase}' if phrase.startswith('used') else f'which has {phrase}'


@MODELS.register_module()
class VCDPrompt(SentencePrompt):
    """The score of a class is the mean cosine of the image and the descriptors of the class (section 2).

    That is the product with the mean unit embedding; its length counts. Nothing is learned.

    =========== =========================================
    ``prepend`` before + name + between + clause + after
    ``append``  clause + between + name
    ``none``    clause
    ``None``    the phrase itself
    =========== =========================================

    Args:
        class_names, text_tower, init_cfg: See :class:`TextPrompt`. A class is looked up by its name, where ``_`` may
            stand for a space; in sentences it is a space.
        descriptors: Path of a file in the release's layout, a JSON object class -> list of phrases, as 'orange
            eyes'; the name of one in ``vlm_dense/data/descriptors``, as 'shapes'; or the object itself. A class with an
            empty list has one empty phrase.
        inclusion: Where the class name stands, see above.
        by_order: The descriptors are those of the classes in their order, whatever the names in the file are; sentences
            have the file's names. So the release pairs its ImageNet file, of which two classes are not found by name.
        clauses: Make a clause of each phrase, see :func:`clause`; else the phrase itself takes its place.
        before, between, after: Texts around, see above. The release has ``after='.'`` on ImageNet.
        aggregate: ``'mean'``, ``'max'`` or ``'sum'`` of the cosines; the sum favours classes with many descriptors.

    Raises:
        DataError: a file of another layout, a class that is not in it, or a sentence without a word.
        ClassNamesError: a sentence longer than the tower's ``context_length``.
        ConfigError: an unknown ``inclusion`` or ``aggregate``, or a text that has no place.

    Attributes:
        sentences: Of each class, in label order.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        descriptors: str | Mapping[str, Sequence[str]],
        inclusion: str | None = 'prepend',
        by_order: bool = False,
        clauses: bool = True,
        before: str = '',
        between: str = ', ',
        after: str = '',
        aggregate: str = 'mean',
        init_cfg: dict | None = None,
    ):
        for name, value, known in (('inclusion', inclusion, INCLUSIONS), ('aggregate', aggregate, AGGREGATES)):
            if value not in known:
                raise ConfigError(f'VCDPrompt: {unknown_name(str(value), f"choices of {name}", map(str, known))}')
        unused = (before or after) if inclusion != 'prepend' else ''
        if unused or inclusion in ('none', None) and between != ', ':
            raise ConfigError(
                f'VCDPrompt: with inclusion={inclusion!r} the text {unused or between!r} has no place. Leave it out or '
                "use inclusion='prepend'."
            )

        def sentence(name: str, phrase: str) -> str:
            told = clause(phrase) if clauses and inclusion is not None else phrase
            by_place = dict(prepend=f'{before}{name}{between}{told}{after}', append=f'{told}{between}{name}')
            return by_place.get(inclusion, told)

        found = texts_of_classes(read_texts(descriptors, 'descriptors'), class_names, by_order)
        sentences = [[sentence(key.replace('_', ' '), p) for p in phrases or ('',)] for key, phrases in found]
        for (key, _), each in zip(found, sentences, strict=True):
            if not all(text.strip() for text in each):
                raise DataError(
                    f'VCDPrompt: the class {key!r} has a sentence without a word. Describe it, or let its name be in '
                    "the sentence: inclusion='prepend'."
                )
        super().__init__(class_names, text_tower, sentences, init_cfg=init_cfg)
        self.sentences = sentences
        self.aggregate = aggregate
        self.num_variants = max(map(len, self.sentences)) if aggregate == 'max' else None

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Means or sums (K, D) of unit embeddings; for the maximum all of them, (V, K, D)."""
        sentences = self.unit_sentences(text_tower)
        if self.aggregate == 'max':
            embeddings = self._side_by_side(sentences)
        else:
            embeddings = (self.mean_by_class if self.aggregate == 'mean' else self.sum_by_class)(sentences)
        return embeddings if classes is None else embeddings[..., classes, :]

    def classifier_weights(self, class_embeddings: Tensor) -> Tensor:
        """The input unchanged: a class with descriptors that agree has a longer mean."""
        return class_embeddings

    def reduce_variants(self, logits: Tensor) -> Tensor:
        """The greatest logit of each class, (B, V, K, ...) to (B, K, ...)."""
        return logits.amax(dim=1)

    def _side_by_side(self, sentences: Tensor) -> Tensor:
        """(S, D) to (V, K, D); classes with fewer descriptors repeat their last, which changes no maximum."""
        counts = self.owner.bincount()
        place = torch.arange(self.num_variants, device=counts.device)[:, None].minimum(counts - 1)
        return sentences[place + counts.cumsum(0) - counts]
