"""Where images come from: a folder, a list of files, tar shards, a table. Read in order, never whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.datasets.shard_files import members, need_fsspec, opened, shard_list
from vlm_dense.errors import ConfigError, DataError, MissingLibraryError
from vlm_dense.inference.images import ImageBytes
from vlm_dense.libraries import how_to_install

COLUMNS = ('image', 'bytes', 'jpg', 'png', 'path', 'file_name')
"""Columns of a table that are taken for the images if none is named."""


class Item(NamedTuple):
    """An image: ``key``, its name without suffix, unique in the input, and its path or bytes."""

    key: str
    image: str | ImageBytes


class Part(NamedTuple):
    """What is done as a whole or again: its number in the input, a name for its files, and its images."""

    number: int
    name: str
    read: Callable[[], Iterable[Item]]


def parts(source: str | os.PathLike, size: int, out: str | os.PathLike, column: str | None = None) -> Iterator[Part]:
    """The parts of an input, in order; the same for every process that reads it.

    Args:
        source: A folder, searched with the folders in it; ``*.txt``, a list of files, one a line, from its folder;
            ``*.tar``, shards in the layout of webdataset, also several as ``shard-{000..127}.tar`` or a glob, each of
            which is a part; ``*.parquet``, a table of paths or bytes. Lists, shards and tables may be URLs of fsspec.
        size: Images of a part, unless the parts are shards.
        out: Folder of results, which is passed over.
        column: Of the images of a table; default: the first of :data:`COLUMNS` that it has.

    Raises:
        DataError: nothing there, no image, or two images with one key.
        ConfigError: a table without the column.
        MissingLibraryError: a library that the input needs.
    """
    source = os.fspath(source)
    if source.endswith('.tar'):
        for number, path in enumerate(shard_list(source)):
            yield Part(number, PurePosixPath(path).name.removesuffix('.tar'), lambda path=path: tar_items(path))
        return
    if source.endswith('.parquet'):
        yield from table_parts(source, size, column)
        return
    items = listed_items(source) if source.endswith('.txt') else folder_items(source, out)
    number = 0
    while chunk := list(islice(items, size)):
        yield Part(number, f'part-{number:06d}', lambda chunk=chunk: chunk)
        number += 1
    if not number:
        raise DataError(f'{source} holds no image; looked for files ending in {", ".join(IMG_EXTENSIONS)}.')


def check_source(source: str) -> None:
    """Look whether an input is there; needs no library but for URLs.

    Raises:
        DataError: it is not.
        MissingLibraryError: it is a URL, and fsspec is not installed.
    """
    if source.endswith('.tar'):
        shard_list(source)
    elif '://' in source:
        need_fsspec()
    elif not os.path.exists(source):
        raise DataError(f'There is no folder, list, shard or table of images at {os.path.abspath(source)}.')


def check_apart(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Raise a :class:`DataError` if the results would lie in the folder of the images."""
    if os.path.isdir(source) and os.path.realpath(source) == os.path.realpath(out):
        raise DataError(f'Results cannot lie among the images of {source}: give another folder for them.')


# --- folders and lists ----------------------------------------------------------------------------------------


def folder_items(folder: str, out: str | os.PathLike) -> Iterator[Item]:
    """Images below a folder, in the order of their names folder by folder."""
    if not os.path.isdir(folder):
        raise DataError(f'There is no folder of images at {os.path.abspath(folder)}.')
    check_apart(folder, out)
    own = os.path.realpath(out)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(place, name)) != own)
        seen = set()
        for name in sorted(files):
            if name.lower().endswith(IMG_EXTENSIONS):
                path = os.path.join(place, name)
                key = Path(os.path.relpath(path, folder)).with_suffix('').as_posix()
                if key in seen:
                    raise DataError(f'Two images of {place} have the name {Path(key).name}. Rename one of them.')
                seen.add(key)
                yield Item(key, path)


def listed_items(path: str) -> Iterator[Item]:
    """Images of a list, a path a line; relative ones from the folder of the list."""
    base = os.path.dirname(path)
    with opened(path) as lines:
        for line in lines:
            name = line.decode('utf-8', 'surrogateescape').strip()
            if name:
                steps = [step for step in PurePosixPath(name).with_suffix('').parts if step not in ('/', '.', '..')]
                yield Item('/'.join(steps), name if '://' in name else os.path.join(base, name))


# --- shards ---------------------------------------------------------------------------------------------------


def tar_items(path: str) -> Iterator[Item]:
    """Images of a shard: of the files ``KEY.EXTENSION`` those with the extension of an image.

    Raises:
        DataError: it is no tar, or cut short.
    """
    with opened(path) as stream:
        for key, extension, data in members(stream, path):
            if f'.{extension.lower()}' in IMG_EXTENSIONS:
                image = ImageBytes(data)
                image.name = f'{key}.{extension}'
                yield Item(key, image)


# --- tables ---------------------------------------------------------------------------------------------------


def need_pyarrow():
    """The library of Parquet.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingLibraryError(f'Parquet needs pyarrow. {how_to_install("scale")}') from error
    return pyarrow


def table_parts(path: str, size: int, column: str | None = None) -> Iterator[Part]:
    """Parts of a table of bytes, paths, or structs of ``bytes`` and ``path`` as Hugging Face's data sets have them.

    The keys are those of the column ``key``, or the numbers of the rows.
    """
    pyarrow = need_pyarrow()
    with opened(path) as stream:
        table = pyarrow.parquet.ParquetFile(stream)
        names, rows = table.schema_arrow.names, table.metadata.num_rows
    column = column or next((name for name in COLUMNS if name in names), None)
    if column not in names:
        raise ConfigError(f'{path} has no column {column or "of images"}, found {", ".join(names)}. Give --column.')
    if not rows:
        raise DataError(f'{path} has no row.')
    columns = [column, *(['key'] if 'key' in names else [])]
    for number, first in enumerate(range(0, rows, size)):
        last = min(first + size, rows)
        yield Part(number, f'part-{number:06d}', partial(table_items, path, columns, first, last))


def table_items(path: str, columns: Sequence[str], first: int, last: int) -> Iterator[Item]:
    """Images of the rows from ``first`` up to but without ``last``; only row groups that have some are read."""
    with opened(path) as stream:
        table = need_pyarrow().parquet.ParquetFile(stream)
        row = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row + rows <= first or row >= last:
                row += rows
                continue
            for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=columns):
                for cells in batch.to_pylist():
                    if first <= row < last:
                        image = _of_cell(cells[columns[0]], os.path.dirname(path))
                        yield Item(str(cells.get('key', f'{row:08d}')), image)
                    row += 1


def _of_cell(value, base: str) -> str | ImageBytes:
    if isinstance(value, dict):
        value = value.get('bytes') or value.get('path')
    if isinstance(value, bytes):
        return ImageBytes(value)
    return value if value is None or '://' in value else os.path.join(base, value)
