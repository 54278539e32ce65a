"""Rules for outputs: they replace no input, and no file that this program did not write."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from vlm_dense.errors import ConfigError, DataError

WRITTEN = '.vlm_dense_written'
"""File in a folder of outputs: the names of those that vlm_dense wrote there, one a line."""


def claim(outputs: Iterable[str | os.PathLike], inputs: Iterable[object] = ()) -> None:
    """Check whether files may be written, and note that they are this program's; call it before the first is written.

    A file that is there already may be replaced only if a call before has noted it. All programs write through this.

    Args:
        outputs: Files that will be written.
        inputs: Their input files; values that are no paths are ignored.

    Raises:
        DataError: an output is an input, by another name or through a link too, or a file of somebody else. Nothing
            was written.
    """
    outputs = [os.fspath(path) for path in outputs]
    read = {_identity(path): path for path in inputs if isinstance(path, (str, os.PathLike)) and _identity(path)}
    known: dict[str, set[str]] = {}
    new: dict[str, list[str]] = defaultdict(list)
    for path in outputs:
        folder, name = os.path.split(os.path.abspath(path))
        known.setdefault(folder, _noted(folder))
        if _identity(path) in read:
            raise DataError(
                f'The result {path} would replace {read[_identity(path)]}, which it is made from. Nothing was written; '
                'give another place for the results.'
            )
        if name in known[folder]:
            continue
        if os.path.lexists(path):
            raise DataError(
                f'The result {path} would replace a file that vlm_dense did not write. Nothing was written; give '
                'another place for the results, or move that file away.'
            )
        new[folder].append(name)
    for folder, names in new.items():
        try:
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, WRITTEN), 'a', encoding='utf-8', errors='surrogateescape') as file:
                file.write(''.join(f'{name}\n' for name in names))
        except OSError as error:
            raise DataError(f'{folder} cannot be written: {error.strerror or error}.') from error


def _noted(folder: str) -> set[str]:
    try:
        text = Path(folder, WRITTEN).read_text(encoding='utf-8', errors='surrogateescape')
    except OSError:
        return set()
    return set(text.split('\n'))


def _identity(path: str | os.PathLike) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a missing file is reported where it is read
        return None
    return found.st_dev, found.st_ino


def check_work_dir(work_dir: str, load_from: str | None, resumed: bool, overwrite: bool) -> None:
    """Refuse a new training among the checkpoints of another one.

    Args:
        work_dir: Where checkpoints will be written.
        load_from: Checkpoint that the run begins with.
        resumed: Whether the run continues the one that wrote it.
        overwrite: Whether the checkpoints may be replaced.

    Raises:
        ConfigError: the work dir holds the checkpoints of another run, or the one that the run begins with.
    """
    found = sorted(path.name for path in Path(work_dir).glob('*.pth') if not path.name.startswith('.'))  # begun only
    inside = bool(load_from) and os.path.realpath(os.path.dirname(load_from) or '.') == os.path.realpath(work_dir)
    if not found or (resumed and inside) or (overwrite and not inside):
        return
    ways = '' if inside else '--overwrite to replace them, '
    raise ConfigError(
        f'The work dir {work_dir} holds checkpoints of another run ({", ".join(found[:3])}'
        f'{", ..." if len(found) > 3 else ""}), which this one would replace. Take --resume to continue it, {ways}'
        'or another folder by --work-dir.'
    )
