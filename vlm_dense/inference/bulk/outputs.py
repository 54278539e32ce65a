"""What is written of a part: a file an image, or one file of all; whole or not at all."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vlm_dense.engine.files import PARTIAL, atomic_write
from vlm_dense.inference.bulk.sources import need_pyarrow
from vlm_dense.inference.images import ImageBytes

FORMATS = dict(label=('png', 'npy', 'tar', 'parquet'), features=('npy', 'safetensors', 'tar', 'parquet'))
"""Task -> formats of its results; the first is the default."""


def encoded(array: np.ndarray, kind: str) -> bytes:
    """An array as a file: ``'png'`` (labels, 8 bits) or ``'npy'``."""
    stream = io.BytesIO()
    if kind == 'png':
        Image.fromarray(array).save(stream, 'PNG')
    else:
        np.save(stream, array)
    return stream.getvalue()


class Writer(Protocol):
    """Takes the results of a part."""

    def add(self, key: str, data: bytes, image: str | ImageBytes) -> None:
        """A result, and the image that it is of."""


@contextmanager
def writer(out: Path, name: str, kind: str, extension: str, with_images: bool = False) -> Iterator[Writer]:
    """Write the results of a part.

    Args:
        out: Folder.
        name: Of the part.
        kind: One of :data:`FORMATS`.
        extension: ``'png'`` or ``'npy'``, what the results are.
        with_images: Put the images beside the results, in shards.

    Raises:
        OSError: it cannot be written; a file of the whole part is then not there.
    """
    if kind in ('png', 'npy'):
        yield _Files(out, extension)
        return
    with atomic_write(out / f'{name}.{kind}') as begun:
        if kind == 'tar':
            with tarfile.open(begun, 'w') as tar:
                yield _Shard(tar, 'mask.png' if extension == 'png' else extension, with_images)
        elif kind == 'parquet':
            table = _Table(begun)
            yield table
            table.close()
        else:
            tensors = _Tensors()
            yield tensors
            tensors.save(begun)


class _Files:
    def __init__(self, out: Path, extension: str):
        self.out, self.extension = out, extension

    def add(self, key: str, data: bytes, image: str | ImageBytes) -> None:
        path = self.out / f'{key}.{self.extension}'
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.with_name(f'.{path.stem}{PARTIAL}{path.suffix}')
        begun.write_bytes(data)
        os.replace(begun, path)


class _Shard:
    def __init__(self, tar: tarfile.TarFile, extension: str, with_images: bool):
        self.tar, self.extension, self.with_images = tar, extension, with_images

    def add(self, key: str, data: bytes, image: str | ImageBytes) -> None:
        key = key.replace('.', '_')  # what is behind the first dot is the extension
        if self.with_images:
            name, content = (image, Path(image).read_bytes()) if isinstance(image, str) else (image.name, image)
            self._file(f'{key}{Path(name).suffix or ".jpg"}', content)
        self._file(f'{key}.{self.extension}', data)

    def _file(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)  # without a time or an owner: the same bytes each time
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))


class _Table:
    def __init__(self, path: Path):
        pyarrow = need_pyarrow()
        self.schema = pyarrow.schema([('key', pyarrow.string()), ('data', pyarrow.binary())])
        self.file, self.rows = pyarrow.parquet.ParquetWriter(path, self.schema), []

    def add(self, key: str, data: bytes, image: str | ImageBytes) -> None:
        self.rows.append(dict(key=key, data=data))
        if len(self.rows) == 256:
            self._write()

    def _write(self) -> None:
        self.file.write_table(need_pyarrow().Table.from_pylist(self.rows, self.schema))
        self.rows.clear()

    def close(self) -> None:
        if self.rows:
            self._write()
        self.file.close()


class _Tensors:
    def __init__(self):
        self.found = {}

    def add(self, key: str, data: bytes, image: str | ImageBytes) -> None:
        self.found[key] = np.load(io.BytesIO(data), allow_pickle=False)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        save_file(self.found, path)
