"""Lists of class names: several names a class, the background, and the lists that come with the package."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from mmengine.logging import print_log

from vlm_dense.clip.tokenizer import tokenize
from vlm_dense.errors import ClassNamesError, ConfigError, unknown_name

FOLDER = Path(__file__).parents[1] / 'data' / 'class_names'

_LONGEST = 512  # tokens of a name that are compared

Aliases = tuple[str, ...]
"""The names of one class."""


def split_names(texts: Sequence[str]) -> list[str]:
    """Class names out of words and of lists with commas."""
    names = [name.strip() for text in texts for name in text.split(',')]
    return [name for name in names if name]


def read_class_names(source: str) -> list[list[str]]:
    """Read a list of class names.

    A file has one class a line, in label order, its names separated by commas. Empty lines and those that start with
    ``#`` are left out.

    Args:
        source: Path of a file; the name of a list that comes with the package, as ``'voc20'``; or the type of a data
            set of mmseg, mmdet or this package, as ``'ADE20KDataset'``.

    Returns:
        The names of each class.

    Raises:
        ClassNamesError: no such list.
    """
    path = Path(source)
    if re.fullmatch(r'(\w+\.)?[A-Z]\w*', source) and not path.is_file():
        names = _of_data_set(source)
        if names is not None:
            return [[' '.join(name.split())] for name in names]
    if not path.suffix:
        path = FOLDER / f'{source}.txt'
    if not path.is_file():
        if path.parent == FOLDER:
            known = [p.stem for p in FOLDER.glob('*.txt')]
            raise ClassNamesError(unknown_name(source, 'lists of class names of vlm_dense', known))
        raise ClassNamesError(f'There is no file of class names at {path.absolute()}.')
    try:
        lines = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
    except UnicodeDecodeError as error:
        raise ClassNamesError(f'{path} is no text in UTF-8 ({error}). Save it as UTF-8, a class a line.') from error
    return [_split(line) for line in lines if line and not line.startswith('#')]


def _of_data_set(kind: str) -> Sequence[str] | None:
    """Classes of the type of a data set; ``None`` if there is no such type, or it has none of its own."""
    from vlm_dense.registry import DATASETS  # imports the libraries of the tasks, which no other list needs

    try:
        return getattr(DATASETS.get(kind), 'METAINFO', {}).get('classes')
    except ConfigError:
        return None


def _split(line: str) -> list[str]:
    return [name.strip() for name in line.split(',') if name.strip()]


def as_class_names(names: str | Sequence[str | Sequence[str]], repeated: bool = False) -> tuple[Aliases, ...]:
    """Class names in label order, each class with one or more names.

    Args:
        names: What :func:`read_class_names` takes; or a class an entry: one name, or a list of them.
        repeated: Classes may share a name, as those of several tasks do.

    Raises:
        ClassNamesError: no order, no class, a class without name, or a name that two classes share, as CLIP reads it.
    """
    if isinstance(names, str):
        names = read_class_names(names)
    _check_order(names)
    entries = [[entry] if isinstance(entry, str) else entry for entry in names]
    for index, entry in enumerate(entries):
        if not isinstance(entry, Sequence) or not all(isinstance(name, str) for name in entry):
            raise ClassNamesError(f'Class {index} must be a name or a list of names, found {entry!r}.')
    classes = tuple(tuple(dict.fromkeys(' '.join(name.split()) for name in entry)) for entry in entries)
    if not classes:
        raise ClassNamesError('Expected at least one class name, found an empty list.')
    if not repeated:
        check_distinct(classes)
    return classes


def one_name_each(names: str | Sequence[str] | None, number: int | None = None, repeated: bool = False) -> list[str]:
    """Names in label order, one a class, checked by :func:`check_names`.

    Args:
        names: They, or what :func:`read_class_names` takes, of which each class has its first name.
        number: How many there must be; ``None``: any number.
        repeated: See :func:`check_names`.

    Raises:
        ClassNamesError: see :func:`check_names`; or another number of them.
    """
    if isinstance(names, str):
        names = [entry[0] for entry in read_class_names(names)]
    check_names(names, repeated)
    if number not in (None, len(names)):
        raise ClassNamesError(
            f'{len(names)} class names for num_classes={number}. Leave num_classes out, or name the classes of the '
            'data set.'
        )
    return list(names)


def check_names(names: Sequence[str] | None, repeated: bool = False) -> None:
    """Check whether names, one a class, can be told apart by a text tower.

    Args:
        names: In label order.
        repeated: Let names be equal, as in published lists (ImageNet's have 'missile' twice); the log says so.

    Raises:
        ClassNamesError: no list, a string instead of a list, what is no name, an empty name, or equal names.
    """
    if names is None:
        raise ClassNamesError(
            'class_names are missing. `vlm-dense train` and `test` take them from the data set; elsewhere give '
            "model=dict(class_names=['wall', ...]) in label order."
        )
    if isinstance(names, str):
        raise ClassNamesError(
            f'Class names must be a list, a name a class, found the string {names!r}, each letter of which would be a '
            "class. Write [...] around the names, as in ['sky', 'road']."
        )
    _check_order(names)
    wrong = [i for i, name in enumerate(names) if not isinstance(name, str)]
    if wrong:
        raise ClassNamesError(f'The name of class {wrong[0]} must be a string, found {names[wrong[0]]!r}.')
    try:
        check_distinct([(name,) for name in names])
    except EqualNamesError as error:
        if not repeated:
            raise
        print_log(f'{error}', logger='current', level=logging.WARNING)


def _check_order(names) -> None:
    if isinstance(names, (Set, Mapping)):
        raise ClassNamesError(
            f'Class names must be a list in label order, found a {type(names).__name__}, which has none: '
            f'{str(names)[:100]}. Write [...] around the names.'
        )


class EqualNamesError(ClassNamesError):
    """Two classes of one name, which published lists have."""


def check_distinct(classes: Sequence[Sequence[str]]) -> None:
    """Check whether every class has a name, and no two classes have the same one.

    Names are the same if CLIP's tokenizer makes the same of them: it knows no upper case and no width of spaces.

    Raises:
        ClassNamesError: see above; names the classes.
    """
    for index, aliases in enumerate(classes):
        if not aliases or not all(name.strip() for name in aliases):
            raise ClassNamesError(f'Class {index} of {len(classes)} has no name.')
        for name in aliases:
            if any('\ud800' <= letter <= '\udfff' for letter in name):  # how Python passes on bytes that are no UTF-8
                raise ClassNamesError(f'The name {name!a} of class {index} is no text in UTF-8. Type it again.')
            if not name.isprintable():
                raise ClassNamesError(f'The name {name!a} of class {index} has letters that cannot be printed.')
    owner: dict[tuple[int, ...], tuple[int, str]] = {}
    for index, name in ((index, name) for index, aliases in enumerate(classes) for name in aliases):
        other, spelt = owner.setdefault(_tokens(name), (index, name))
        if other != index:
            same = f' (CLIP reads {name!r} as {spelt!r})' if name != spelt else ''
            raise EqualNamesError(
                f'{spelt!r} is the name of class {other} and of class {index}{same}: nothing could tell them '
                'apart. Leave one of them out or name it differently; several names of one class go into one '
                "entry, as in [['sofa', 'couch'], 'table']."
            )


def _tokens(name: str) -> tuple[int, ...]:
    return tuple(tokenize(None, [name], _LONGEST, truncate=True)[0].tolist())
