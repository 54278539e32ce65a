"""Tar shards in the layout of webdataset: found, read as streams, and a file in them as a path of its own."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.fileio import BaseStorageBackend, register_backend

from vlm_dense.errors import DataError, MissingLibraryError
from vlm_dense.libraries import how_to_install

_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')
_PLACE = re.compile(r'tar://(?P<shard>.*):(?P<offset>\d+):(?P<size>\d+)/[^/]*', re.DOTALL)


def need_fsspec():
    """The library of URLs.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        import fsspec
    except ImportError as error:
        raise MissingLibraryError(f'URLs of shards and tables need fsspec. {how_to_install("scale")}') from error
    return fsspec


@contextmanager
def opened(path: str) -> Iterator:
    """A file or URL, open for reading bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        stream = need_fsspec().open(path, 'rb').open() if '://' in path else open(path, 'rb')  # noqa: SIM115
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f'{path} cannot be read: {getattr(error, "strerror", None) or error}.') from error
    with stream:
        yield stream


def shard_list(source: str) -> list[str]:
    """The shards that a path, a range ``{000..127}`` or a glob stands for, in order.

    Raises:
        DataError: one is not there.
    """
    span = _RANGE.search(source)
    if span:
        first, last = int(span[1]), int(span[2])
        names = [f'{number:0{len(span[1])}d}' for number in range(first, last + 1)]
        return [path for name in names for path in shard_list(source[: span.start()] + name + source[span.end() :])]
    if '://' in source:
        if not glob.has_magic(source):
            return [source]
        files, _, found = need_fsspec().core.get_fs_token_paths(source)
        return [files.unstrip_protocol(path) for path in sorted(found)]
    found = sorted(glob.glob(source)) if glob.has_magic(source) else [source] * os.path.isfile(source)
    if not found:
        raise DataError(f'There is no shard at {os.path.abspath(source)}.')
    return found


def parts_of_name(name: str) -> tuple[str, str]:
    """Key and extension of a file in a shard: of ``a/b.mask.png`` they are ``a/b`` and ``mask.png``."""
    folder, name = os.path.split(name)
    key, _, extension = name.partition('.')
    return os.path.join(folder, key), extension


def members(stream, path: str) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and bytes of the files of a shard that is read once, from its beginning.

    Raises:
        DataError: it is no tar, or cut short.
    """
    with _whole(path), tarfile.open(fileobj=stream, mode='r|*') as tar:
        for member in tar:
            tar.members = []  # tarfile keeps a list of all
            if member.isfile():
                yield *parts_of_name(member.name), tar.extractfile(member).read()


def places(path: str) -> Iterator[tuple[str, str, str]]:
    """Key, extension, and path for mmengine's ``fileio`` of the files of a shard; only their headers are read.

    Raises:
        DataError: it is no tar, is compressed, or cut short.
    """
    own = path if '://' in path else os.path.abspath(path)
    with _whole(path), opened(path) as stream, tarfile.open(fileobj=stream, mode='r:') as tar:
        for member in tar:
            tar.members = []
            if member.isfile():
                key, extension = parts_of_name(member.name)
                name = os.path.basename(member.name)
                yield key, extension, f'tar://{own}:{member.offset_data}:{member.size}/{name}'


@contextmanager
def _whole(path: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f'{path} is no whole tar: {error}. Write it again.') from error


class TarBackend(BaseStorageBackend):
    """Files in shards for mmengine's ``fileio``: ``tar://SHARD:OFFSET:SIZE/NAME``, see :func:`places`."""

    def get(self, filepath: str) -> bytes:
        """The bytes of a file.

        Raises:
            DataError: the shard cannot be read, or has changed.
        """
        found = _PLACE.fullmatch(str(filepath))
        if found is None:
            raise DataError(f'Expected tar://SHARD:OFFSET:SIZE/NAME, found {filepath}.')
        with opened(found['shard']) as stream:
            stream.seek(int(found['offset']))
            data = stream.read(int(found['size']))
        if len(data) != int(found['size']):
            raise DataError(f'{found["shard"]} is shorter than when it was listed: it was cut short or replaced.')
        return data

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """The text of a file."""
        return self.get(filepath).decode(encoding)


register_backend('tar', TarBackend, prefixes='tar', force=True)
