"""Sentences of a language model about classes: the files that hold them, and prompts that are ensembles of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.errors import ConfigError, DataError, unknown_name

DATA = Path(__file__).parents[1] / 'data'


def read_texts(source: str | Mapping[str, Sequence[str]], folder: str) -> dict[str, list[str]]:
    """Texts about classes: one JSON object, class text -> list of strings, as CuPL and VCD publish them.

    Args:
        source: Path of a ``.json`` file, the name of a file in ``vlm_dense/data/FOLDER``, as 'shapes', or the object
            itself.
        folder: ``'sentences'`` (CuPL's, whole sentences) or ``'descriptors'`` (VCD's, phrases).

    Raises:
        ConfigError: no such name; the nearest ones are given.
        DataError: no such file, no JSON, or another layout; names the file and the place in it.
    """
    if not isinstance(source, str):
        return _checked(source, f'the mapping of {folder} in the config')
    path = Path(source) if Path(source).suffix else DATA / folder / f'{source}.json'
    if not path.is_file():
        if path.parent == DATA / folder:
            known = [p.stem for p in path.parent.glob('*.json')]
            raise ConfigError(unknown_name(source, f'{folder} of vlm_dense', known) + ' Or give the path of a .json.')
        raise DataError(f'There is no file {path} with {folder} of classes; tools/describe_classes.py makes one.')
    try:
        content = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=lambda pairs: _once(pairs, path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f'{path} is no JSON in UTF-8: {error}.') from error
    return _checked(content, str(path))


def _once(pairs: list[tuple[str, object]], path: Path) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f'{path} has the class {twice!r} twice. Join the two lists.')
    return found


def _checked(content: object, where: str) -> dict[str, list[str]]:
    expected = 'Expected one JSON object, {"class": ["a text", "another"], ...}'
    if not isinstance(content, Mapping) or not content:
        what = 'an empty object' if content == {} else f'a {type(content).__name__}'
        raise DataError(f'{where}: {expected}; found {what}.')
    for name, texts in content.items():
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise DataError(f'{where}: {expected}; the class {name!r} has a {type(texts).__name__} instead of a list.')
        other = next((text for text in texts if not isinstance(text, str)), None)
        if other is not None:
            raise DataError(f'{where}: {expected}; the list of the class {name!r} has the entry {other!r}.')
    return {name: list(texts) for name, texts in content.items()}


def texts_of_classes(
    texts: Mapping[str, Sequence[str]], class_names: Sequence[str], by_order: bool = False
) -> list[tuple[str, tuple[str, ...]]]:
    """(class text, its texts) of each class, found by name; ``_`` is read as a space where the name itself is absent.

    Args:
        texts: Class text -> its texts.
        class_names: In label order.
        by_order: Take the entries in their order, whatever their names are.

    Raises:
        DataError: classes without entry; names them and what is near. By order, another number of entries.
    """
    if by_order:
        if len(texts) != len(class_names):
            raise DataError(
                f'by_order=True pairs classes and texts by their order: expected {len(class_names)} entries, one a '
                f'class, found {len(texts)}. Find them by name (by_order=False), or give the file of these classes.'
            )
        return [(key, tuple(found)) for key, found in texts.items()]
    spaced = {name.replace('_', ' '): name for name in texts}
    keys = [name if name in texts else spaced.get(name.replace('_', ' ')) for name in class_names]
    absent = [name for name, key in zip(class_names, keys, strict=True) if key is None]
    if absent:
        some = ', '.join(map(repr, absent[:5])) + (', ...' if len(absent) > 5 else '')
        raise DataError(
            f'{len(absent)} of {len(class_names)} classes have no texts: {some}. '
            + unknown_name(absent[0], f'list of {len(texts)} described classes', texts)
            + ' Add them to the file, tools/describe_classes.py helps, or rename the classes; letter case counts.'
        )
    return [(key, tuple(texts[key])) for key in keys]


class SentencePrompt(TextPrompt):
    """Base of prompts that embed each class as an ensemble of sentences of its own; nothing is learned.

    Args:
        class_names, text_tower, init_cfg: See :class:`TextPrompt`.
        sentences: Of each class, at least one.
        truncate: Cut sentences that are longer than the tower's ``context_length``; else they are refused.

    Attributes:
        token_ids: (S, T) ids of all sentences, those of the first class first.
        owner: (S,) the class of each sentence, int64.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        sentences: Sequence[Sequence[str]],
        truncate: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        counts = torch.tensor([len(each) for each in sentences])
        ids = text_tower.tokenize([text for each in sentences for text in each], truncate)
        self.register_buffer('token_ids', ids, persistent=False)
        self.register_buffer('owner', torch.arange(len(counts)).repeat_interleave(counts), persistent=False)

    def unit_sentences(self, text_tower: TextTower) -> Tensor:
        """Unit embeddings (S, D) of all sentences, float32; a frozen tower computes them once."""
        return F.normalize(text_tower.encode_tokens(self.token_ids).float(), dim=-1)

    def sum_by_class(self, sentences: Tensor) -> Tensor:
        """Sums (K, D) of what the sentences (S, D) of each class have."""
        return sentences.new_zeros(len(self.class_names), sentences.shape[1]).index_add(0, self.owner, sentences)

    def mean_by_class(self, sentences: Tensor) -> Tensor:
        """Means (K, D) in which each sentence (S, D) of a class weighs the same."""
        return self.sum_by_class(sentences) / self.owner.bincount(minlength=len(self.class_names))[:, None]
