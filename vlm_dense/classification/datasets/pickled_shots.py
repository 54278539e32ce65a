"""The few shots that CoOp's code drew and kept in a pickle, read without running anything in it."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vlm_dense.errors import DataError

_DATUM = ('Datum', '_impath', '_label', '_classname')


class _Datum:
    """Stands for the class of the pickled entries; holds what they hold and can do nothing."""


class _Reader(pickle.Unpickler):
    """Knows the one class that such files need; any other name ends the reading before it is looked up."""

    def find_class(self, module: str, name: str):
        if name == _DATUM[0] and module.split('.')[0] in ('dassl', 'datasets'):
            return _Datum
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def read_pickled_shots(path: str | Path) -> dict[str, list[tuple[str, int]]]:
    """Paths and labels of CoOp's ``split_fewshot/shot_16-seed_1.pkl``.

    Args:
        path: The file.

    Returns:
        (path as it was on the machine that drew, label) of each image of 'train' and 'val'.

    Raises:
        DataError: no such file, another content, or a pickle that asks for anything but these entries.
    """
    path = Path(path)
    try:
        with path.open('rb') as file:
            content = _Reader(file).load()
        if not isinstance(content, dict):
            raise TypeError(f'it holds a {type(content).__name__}')
        parts = {part: content[part] for part in ('train', 'val') if part in content}
        shots = {
            part: [(str(vars(entry)[_DATUM[1]]), int(vars(entry)[_DATUM[2]])) for entry in entries]
            for part, entries in parts.items()
        }
    except FileNotFoundError as error:
        raise DataError(f'There is no file {path} of few shots.') from error
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f'{path} is no file of few shots as the code of CoOp writes them ({error}); nothing in it was run. Draw '
            'the shots again with shots and seed.'
        ) from error
    if 'train' not in shots:
        raise DataError(f"{path} has no list 'train' of few shots; it has {sorted(map(str, content))}.")
    return shots


def find_images(shots: Sequence[tuple[str, int]], images: Sequence[dict], where: str) -> list[dict]:
    """Entries of the images in a pickled file, in its order; folders above the set may have other names.

    Args:
        shots: (path, label) of each.
        images: Data infos with ``img_path`` and ``gt_label``.
        where: The file, for messages.

    Raises:
        DataError: an image that is not there, or that has another label.
    """
    by_name: dict[str, list[dict]] = defaultdict(list)
    for image in images:
        by_name[Path(image['img_path']).name].append(image)
    found = []
    for path, label in shots:
        wanted = PurePosixPath(path.replace('\\', '/')).parts
        near = max(by_name.get(wanted[-1], ()), key=lambda image: _common(image['img_path'], wanted), default=None)
        if near is None or near['gt_label'] != label:
            what = 'is not among the images' if near is None else f'has the label {near["gt_label"]} and not {label}'
            raise DataError(f'{where}: {path} {what}. Take the file that was drawn from this set.')
        found.append(near)
    return found


def _common(path: str, wanted: Sequence[str]) -> int:
    """Number of trailing parts that two paths share."""
    own = Path(path).parts
    count = 0
    while count < min(len(own), len(wanted)) and own[-1 - count] == wanted[-1 - count]:
        count += 1
    return count
