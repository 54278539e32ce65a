"""Files that a data set, a camera or a stranger may give: what is wrong with them is in their names."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes of it: what memory it asks for is decided by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    size = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(3 * width + 1))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', size) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


def encoded(array: np.ndarray, kind: str = 'PNG', **options) -> bytes:
    """The bytes of an image."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


PHOTO = encoded(np.random.RandomState(0).randint(0, 255, (40, 48, 3)).astype(np.uint8))
MASK = encoded(np.zeros((40, 48), np.uint8))

BROKEN = {
    'empty': b'',
    'text': b'no image at all',
    'cut': PHOTO[: len(PHOTO) // 2],
    'only-a-signature': PHOTO[:8],
    'bad-checksum': PHOTO[:20] + b'\xff\xff' + PHOTO[22:],
    'html': b'<html><body>404</body></html>',
    'zip': b'PK\x03\x04' + bytes(60),
}
"""Contents of files that are no images."""


def write(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
