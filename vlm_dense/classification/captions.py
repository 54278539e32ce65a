"""Captions with the classes that they name, instead of labelled images (TaI-DPT, CVPR 2023, section 3.2)."""

from __future__ import annotations

import json
import logging
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS as ROOT_DATASETS

from vlm_dense.classification.datasets import SETS
from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.classification.transforms import label_vector
from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.tokenizer import build_tokenizer
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS, unknown_name
from vlm_dense.vocabulary.templates import read_templates

_FOLDER = Path(__file__).parents[1] / 'data' / 'synonyms'
_IRREGULAR = dict(
    child='children', foot='feet', goose='geese', man='men', mouse='mice', ox='oxen', person='people', sheep='sheep',
    tooth='teeth', woman='women',
)  # fmt: skip


# --- classes in a sentence --------------------------------------------------------------------------------------------


def plurals(word: str) -> set[str]:
    """Candidate plural forms of a noun; some may be no words."""
    if word in _IRREGULAR:
        return {_IRREGULAR[word]}
    for suffix in ('man', 'woman', 'person', 'child', 'mouse'):
        if word.endswith(suffix):
            return {word.removesuffix(suffix) + _IRREGULAR[suffix], f'{word}s'}
    if word.endswith(('s', 'x', 'z', 'ch', 'sh')):
        return {f'{word}es'}
    forms = {f'{word}s'}
    if re.search('[^aeiou]y$', word):
        forms = {f'{word[:-1]}ies'}
    elif word.endswith('fe'):
        forms.add(f'{word[:-2]}ves')
    elif word.endswith('f'):
        forms.add(f'{word[:-1]}ves')
    elif word.endswith('o'):
        forms.add(f'{word}es')
    return forms


class ClassFinder:
    """Finds the classes that a sentence names, by their names and synonyms, in singular and plural.

    As in the official code, names of several words are looked for first and taken out of the sentence, so that a 'hot
    dog' is no dog; then single words, and names of several words written as one. The official code brings words to
    their base form by their part of speech, here plurals of the words of names are brought to the singular.

    Args:
        synonyms: The names of each class, in label order, in lower case.

    Raises:
        ConfigError: a name that two classes have, or a class without name.
    """

    def __init__(self, synonyms: Sequence[Sequence[str]]):
        owners: dict[str, int] = {}
        for label, names in enumerate(synonyms):
            if not names:
                raise ConfigError(f'ClassFinder: class {label} has no name to look for.')
            for name in names:
                if owners.setdefault(name, label) != label:
                    raise ConfigError(f'ClassFinder: {name!r} is a name of two classes, {owners[name]} and {label}.')
        long = [(name, label) for name, label in owners.items() if ' ' in name]
        short = [(name, label) for name, label in owners.items() if ' ' not in name]
        compounds = [(name.replace(' ', ''), label) for name, label in long]
        self.names = [*long, *short, *compounds]
        words = {word for name, _ in self.names for word in name.split()}
        self.singular = {form: word for word in sorted(words) for form in plurals(word) if form not in words}

    def find(self, caption: str) -> list[int]:
        """Labels of the classes that a caption names, ascending."""
        words = re.findall(r"[a-z0-9'-]+", caption.lower())
        return self.match(' '.join(self.singular.get(word, word) for word in words))

    def match(self, sentence: str) -> list[int]:
        """Labels of the classes with a name in a sentence of base forms, with single spaces between them."""
        sentence = f' {sentence} '
        found = set()
        for name, label in self.names:
            if f' {name} ' in sentence:
                found.add(label)
                sentence = sentence.replace(f' {name} ', ' ')
        return sorted(found)


def read_synonyms(source: str | Mapping[str, Sequence[str]] | None, class_names: Sequence[str]) -> list[list[str]]:
    """Names of each class to look for: its own, and those of a list.

    Args:
        source: 'coco2014' or 'voc2007' for the lists of this project, the path of a JSON file, or the
            mapping of class names to names that it holds; ``None`` for none.
        class_names: In label order.

    Raises:
        ConfigError: no such list, or names of classes that there are not.
        DataError: a file of another layout.
    """
    if isinstance(source, str):
        path = Path(source) if Path(source).suffix else _FOLDER / f'{source}.json'
        if not path.is_file():
            raise ConfigError(
                unknown_name(source, 'lists of synonyms of vlm_dense', [p.stem for p in _FOLDER.glob('*.json')])
            )
        source = _parsed(path.read_text(encoding='utf-8'), path)
        if not isinstance(source, dict) or not all(isinstance(names, list) for names in source.values()):
            raise DataError(f'{path} is no list of synonyms; expected {{"class name": ["another name", ...], ...}}.')
    plain = {name: name.replace('_', ' ').lower() for name in class_names}
    known = set(class_names) | set(plain.values())
    for name in source or {}:
        if name not in known:
            raise ConfigError(unknown_name(name, 'classes that have synonyms here', class_names))
    more = [(source or {}).get(name, (source or {}).get(words, ())) for name, words in plain.items()]
    return [list(dict.fromkeys([words, *given])) for words, given in zip(plain.values(), more, strict=True)]


# --- data sets --------------------------------------------------------------------------------------------------------


@DATASETS.register_module()
class CaptionFileDataset(BaseDataset):
    """The captions of a file; a data info is ``dict(caption)``.

    Args:
        ann_file: COCO's ``captions_*.json``; a ``.jsonl`` file with an object with a ``caption`` on each line, as of
            Localized Narratives; or a ``.txt`` file of one caption a line. Relative to ``data_root``.
        classes: What the captions may name: names, or 'coco2014' or 'voc2007' for those of the set.
        one_an_image: Of COCO's captions, of which an image has five, take one of each image, drawn with this seed;
            None: all. The official code has a fixed list of as many captions as there are images.
        **kwargs: As in :class:`mmengine.dataset.BaseDataset`.

    Raises:
        DataError: a file of another layout, or without captions.
        ConfigError: no such set.
    """

    def __init__(
        self,
        ann_file: str,
        classes: str | Sequence[str],
        one_an_image: int | None = None,
        metainfo: dict | None = None,
        **kwargs: Any,
    ):
        if isinstance(classes, str):
            named = {name: cfg['classes'] for name, cfg in SETS.items() if 'classes' in cfg}
            if classes not in named:
                raise ConfigError(unknown_name(classes, 'sets with class names for captions', named))
            classes = named[classes]
        self.one_an_image = one_an_image
        super().__init__(ann_file=ann_file, metainfo=dict(metainfo or {}, classes=tuple(classes)), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Data infos of the captions."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise DataError(f'There is no file {path} of captions. Say where it is with data_root and ann_file.')
        text = path.read_text(encoding='utf-8')
        try:
            captions = [str(caption).strip() for caption in self._captions(path, text)]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path} holds no captions as COCO's files do: expected {{'annotations': [{{'caption': ...}}, ...]}}, "
                "or an object with 'caption' in each line of a .jsonl file, or a .txt file."
            ) from error
        captions = [caption for caption in captions if caption]
        if not captions:
            raise DataError(f'{path} has no caption.')
        return [dict(caption=caption) for caption in captions]

    def _captions(self, path: Path, text: str) -> Iterable[str]:
        if path.suffix == '.txt':
            return text.splitlines()
        if path.suffix == '.jsonl':
            return [_parsed(line, path)['caption'] for line in text.splitlines() if line.strip()]
        entries = _parsed(text, path)['annotations']
        if self.one_an_image is not None:
            of_image: dict[int, list[dict]] = defaultdict(list)
            for entry in entries:
                of_image[entry['image_id']].append(entry)
            draw = random.Random(self.one_an_image)
            entries = [draw.choice(of_image[image]) for image in sorted(of_image)]
        return [entry['caption'] for entry in entries]


@DATASETS.register_module()
class CaptionDataset:
    """Captions that name classes, as token ids instead of images, with the labels of the classes.

    Captions without class are left out; the log counts them. To these come sentences about each class alone.

    Samples are ``inputs``, token ids int64 (77,), and ``data_samples`` with ``gt_labels`` (K,).

    Args:
        dataset: Data infos with a ``caption``, as of :class:`CaptionFileDataset`, or samples of a pipeline that have
            one, as ``vlm_dense.DrawScene`` gives it.
        synonyms: Other names of the classes, see :func:`read_synonyms`.
        templates: Sentences about each class, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`.
        extra: Further sentences; by default 'a photo of a {}.' nine times, as in the official code.
        names: Names in these sentences, one a class; default: those of the classes.
        context_length, arch, tokenizer: See :class:`PackCaption`.

    Raises:
        DataError: no caption names a class.
        ConfigError: another number of names than of classes.
    """

    def __init__(
        self,
        dataset: dict,
        synonyms: str | Mapping[str, Sequence[str]] | None = None,
        templates: str | Sequence[str] = 'imagenet80',
        extra: Sequence[str] = ('a photo of a {}.',) * 9,
        names: Sequence[str] | None = None,
        context_length: int | None = None,
        arch: str | Mapping | None = None,
        tokenizer: str | Mapping | None = None,
    ):
        source = ROOT_DATASETS.build(dataset)
        source.full_init()
        self._metainfo = source.metainfo
        classes = self._metainfo['classes']
        captions = [_caption(source, index) for index in range(len(source))]
        finder = ClassFinder(read_synonyms(synonyms, classes))
        labelled = [(caption, finder.find(caption)) for caption in captions]
        self.captions = [pair for pair in labelled if pair[1]]
        if not self.captions:
            raise DataError(
                f'None of the {len(captions)} captions of {type(source).__name__} names one of {len(classes)} classes: '
                f'{", ".join(classes[:5])}, ... Check the classes, or give synonyms.'
            )
        self.skipped = len(captions) - len(self.captions)
        counts = [sum(label in labels for _, labels in self.captions) for label in range(len(classes))]
        templates = read_templates(templates) if isinstance(templates, str) else templates
        sentences, names = (*extra, *templates), classes if names is None else names
        if len(names) != len(classes):
            raise ConfigError(
                f'CaptionDataset: names are those of the {len(classes)} classes in other words, found {len(names)}.'
            )
        about = [(s.format(name.replace('_', ' ')), [label]) for label, name in enumerate(names) for s in sentences]
        self.pack = PackCaption(context_length, arch, tokenizer)
        print_log(
            f'CaptionDataset: {len(self.captions)} of {len(captions)} captions name classes, {self.skipped} are left '
            f'out; {len(about)} sentences about single classes are added.',
            logger='current',
        )
        absent = [name for name, count in zip(classes, counts, strict=True) if not count]
        if absent:
            print_log(
                f'CaptionDataset: no caption names {len(absent)} of {len(classes)} classes: {", ".join(absent[:5])}.',
                logger='current',
                level=logging.WARNING,
            )
        self.captions += about

    def full_init(self) -> None:
        """As in mmengine."""

    @property
    def metainfo(self) -> dict:
        """Metainfo of the captions."""
        return self._metainfo

    def __len__(self) -> int:
        return len(self.captions)

    def get_data_info(self, index: int) -> dict:
        """A caption and what it names."""
        caption, labels = self.captions[index]
        return dict(caption=caption, gt_labels=labels, num_classes=len(self._metainfo['classes']), sample_idx=index)

    def __getitem__(self, index: int) -> dict:
        return self.pack(self.get_data_info(index))


class PackCaption(BaseTransform):
    """Pack ``caption`` and ``gt_labels`` for :class:`~vlm_dense.classification.CLIPClassifier`.

    Args:
        context_length: Tokens of a caption; longer ones are cut. Default: those of ``arch``, or 77.
        arch, tokenizer: Those of the model's ``text_encoder``, where its texts are not read by CLIP's byte-pair
            encoding.
    """

    def __init__(
        self,
        context_length: int | None = None,
        arch: str | Mapping | None = None,
        tokenizer: str | Mapping | None = None,
    ):
        length = 77 if arch is None else model_config(arch)['text_cfg'].get('context_length', 77)
        self.context_length = context_length or length
        self.tokenizer = build_tokenizer(arch, tokenizer)

    def transform(self, results: dict) -> dict:
        """Pack."""
        sample = ClsDataSample(metainfo=dict(caption=results['caption']))
        sample.gt_labels = label_vector(results)
        (ids,) = self.tokenizer([results['caption']], self.context_length, truncate=True)
        return dict(inputs=ids, data_samples=sample)


def _caption(dataset, index: int) -> str:
    info = dataset.get_data_info(index)
    found = info if 'caption' in info else dataset[index]
    if 'caption' not in found:
        raise DataError(f'CaptionDataset: sample {index} of {type(dataset).__name__} has no caption.')
    return found['caption']


def _parsed(text: str, path: Path):
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f'{path} is no JSON: {error}') from error
