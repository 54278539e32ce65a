"""Lists of class names: several names a class, the background, and the lists that come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlm_dense.errors import ClassNamesError
from vlm_dense.registry import unknown_name

FOLDER = Path(__file__).parents[1] / 'data' / 'class_names'

Aliases = tuple[str, ...]
"""The names of one class."""


def read_class_names(source: str) -> list[list[str]]:
    """Read a list of class names.

    A file has one class a line, in label order, its names separated by commas. Empty lines and those that start with
    ``#`` are left out.

    Args:
        source: Path of a file, or the name of a list that comes with the package, as ``'voc20'``.

    Returns:
        The names of each class.

    Raises:
        ClassNamesError: no such list.
    """
    path = Path(source)
    if not path.suffix:
        path = FOLDER / f'{source}.txt'
    if not path.is_file():
        if path.parent == FOLDER:
            known = [p.stem for p in FOLDER.glob('*.txt')]
            raise ClassNamesError(unknown_name(source, 'lists of class names of vlm_dense', known))
        raise ClassNamesError(f'There is no file of class names at {path.absolute()}.')
    lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    return [_split(line) for line in lines if line and not line.startswith('#')]


def _split(line: str) -> list[str]:
    return [name.strip() for name in line.split(',') if name.strip()]


def as_class_names(names: str | Sequence[str | Sequence[str]]) -> tuple[Aliases, ...]:
    """Class names in label order, each class with one or more names.

    Args:
        names: What :func:`read_class_names` takes; or a class an entry: one name, or a list of them.

    Raises:
        ClassNamesError: no class, a class without name, or a name that two classes share.
    """
    if isinstance(names, str):
        names = read_class_names(names)
    classes = tuple(
        tuple(dict.fromkeys(' '.join(n.split()) for n in ([entry] if isinstance(entry, str) else entry)))
        for entry in names
    )
    if not classes:
        raise ClassNamesError('Expected at least one class name, found an empty list.')
    owner: dict[str, int] = {}
    for index, aliases in enumerate(classes):
        if not aliases or '' in aliases:
            raise ClassNamesError(f'Class {index} of {len(classes)} has no name.')
        for name in aliases:
            if name in owner:
                raise ClassNamesError(
                    f'{name!r} is the name of class {owner[name]} and of class {index}: nothing could tell them '
                    'apart. Leave one of them out or name it differently; several names of one class go into one '
                    "entry, as in [['sofa', 'couch'], 'table']."
                )
            owner[name] = index
    return classes
