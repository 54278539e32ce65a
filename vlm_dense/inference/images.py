"""What the inferencers take for images: files, folders, globs, URLs, bytes, arrays, tensors, images of PIL."""

from __future__ import annotations

import glob
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.datasets.checks import LoadImage, check_pixels
from vlm_dense.errors import DataError
from vlm_dense.limits import DOWNLOAD_SECONDS, MAX_DOWNLOAD, MAX_PIXELS

_REMEDY = 'Give another file.'
_KINDS = (
    'the path or URL of an image, a folder, a glob, bytes or an open file of an image, an array, a tensor, or an image '
    'of PIL'
)


class ImageBytes(bytes):
    """The bytes of an image file.

    Attributes:
        name: What they are called in messages and results; '' if they have no name.
    """

    name = ''


Source = str | ImageBytes | np.ndarray
"""An entry of :func:`image_list`."""


def image_list(inputs) -> list[Source]:
    """The images that inputs stand for, one an entry.

    ==========================================  =====================================================================
    input                                       what it stands for
    ==========================================  =====================================================================
    path, ``file://`` URL                       the file, or the images in the folder, in the order of their names
    path with ``*``, ``?``, ``[...]``, ``**``   the files that match, in the order of their names
    ``http://`` and ``https://`` URL            the image there, at most :data:`~vlm_dense.limits.MAX_DOWNLOAD` bytes
    bytes, a file opened with ``'rb'``          the image in them
    array (H, W, 3), BGR as OpenCV's            uint8, uint16 (upper half), or floating point from 0 to 1; also (H, W),
                                                (H, W, 1), (H, W, 4) without its alpha, and (N, H, W, 3), N images
    tensor (3, H, W), RGB as torchvision's      the same numbers; also (H, W), (1, H, W), (4, H, W), (N, 3, H, W)
    image of PIL                                it, turned as its EXIF entry says
    list, tuple, iterator, generator            its entries, in turn
    ==========================================  =====================================================================

    Returns:
        Paths, :class:`ImageBytes`, and arrays uint8 (H, W, 3), BGR.

    Raises:
        DataError: what is none of these, numbers out of range, a folder without images, a glob without files, a URL
            that gives no file, or no input at all.
    """
    found = [image for one in _entries(inputs) for image in _images(one)]
    if not found:
        raise DataError('Expected an image, found an empty list.')
    return found


def _entries(inputs) -> Iterable:
    if isinstance(inputs, (list, tuple)):
        return inputs
    return inputs if isinstance(inputs, Iterator) and not hasattr(inputs, 'read') else [inputs]


def _images(source) -> list[Source]:
    if isinstance(source, ImageBytes):
        return [source]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return [ImageBytes(source)]
    if isinstance(source, (str, os.PathLike)):
        return _of_path(os.fspath(source))
    if hasattr(source, 'read'):
        return [_of_file(source)]
    if isinstance(source, Image.Image):
        return _of_array(_of_pil(source))
    if isinstance(source, Tensor):
        return _of_tensor(source)
    if isinstance(source, np.ndarray):
        return _of_array(source)
    raise DataError(f'Expected {_KINDS}, found {type(source).__name__}.')


# --- files ----------------------------------------------------------------------------------------------------


def _of_path(path: str | bytes) -> list[Source]:
    path = os.fsdecode(path)
    scheme = path.partition('://')[0].lower() if '://' in path else ''
    if scheme in ('http', 'https'):
        return [fetch(path)]
    if scheme == 'file':
        path = _local(path)
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if name.lower().endswith(IMG_EXTENSIONS))
        if not names:
            raise DataError(f'{path} holds no image; looked for files ending in {", ".join(IMG_EXTENSIONS)}.')
        return [os.path.join(path, name) for name in names]
    if not os.path.exists(path) and glob.has_magic(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if not found:
            raise DataError(f'No file matches {path} (looked from {os.getcwd()}).')
        return found
    return [path]


def _local(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ('', 'localhost') or not parts.path:
        raise DataError(
            f'{url} names no file of this machine: expected file:///PATH, with three slashes and the whole path.'
        )
    return unquote(parts.path)


def _of_file(file) -> ImageBytes:
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # a directory, a closed file, text that is no text
        raise DataError(f'The open file cannot be read: {error}. Open it with open(path, "rb").') from error
    if not isinstance(data, (bytes, bytearray)):
        raise DataError('Expected a file of bytes, found one of text. Open it with open(path, "rb").')
    image = ImageBytes(data)
    name = getattr(file, 'name', '')
    image.name = os.path.basename(name) if isinstance(name, str) else ''
    return image


def fetch(url: str) -> ImageBytes:
    """The file at a URL, ``http://`` or ``https://``.

    Raises:
        DataError: it cannot be reached within :data:`~vlm_dense.limits.DOWNLOAD_SECONDS`, the server refuses it, or it
            has more than :data:`~vlm_dense.limits.MAX_DOWNLOAD` bytes.
    """
    try:
        request = urllib.request.Request(url, headers={'User-Agent': 'vlm_dense', 'Accept': 'image/*,*/*;q=0.5'})
        with urllib.request.urlopen(request, timeout=DOWNLOAD_SECONDS) as answer:  # noqa: S310
            data = answer.read(MAX_DOWNLOAD + 1)
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        raise DataError(f'{url} cannot be read: the server answers {error.code} {error.reason}.') from error
    except (OSError, ValueError) as error:  # no such host, no connection, no answer, no URL
        why = getattr(error, 'reason', None) or error
        raise DataError(
            f'{url} cannot be read: {why}. Look whether the address is right and this machine has a network, or save '
            'the image and give its path.'
        ) from error
    if len(data) > MAX_DOWNLOAD:
        raise DataError(f'{url} has more than {MAX_DOWNLOAD:,} bytes. Save the image and give its path.')
    if kind == 'text/html':
        raise DataError(f'{url} is a web page, no image. Give the address of the image itself.')
    image = ImageBytes(data)
    image.name = os.path.basename(unquote(urlsplit(url).path)) or urlsplit(url).netloc
    return image


# --- pixels ---------------------------------------------------------------------------------------------------


def _of_tensor(tensor: Tensor) -> list[np.ndarray]:
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if tensor.dim() == 4:
        return [image for one in tensor for image in _of_tensor(one)]
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3 or tensor.shape[0] not in (1, 3, 4):
        raise DataError(
            f'Expected an image as a tensor (3, H, W), RGB, found {tuple(tensor.shape)}. A tensor has its channels '
            'first, an array has them last.'
        )
    rgb = tensor.permute(1, 2, 0).numpy()[..., :3]
    return _of_array(np.ascontiguousarray(rgb[..., ::-1]))


def _of_array(array: np.ndarray) -> list[np.ndarray]:
    if array.ndim == 4:
        return [image for one in array for image in _of_array(one)]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = ' An array has its channels last, a tensor has them first.' if first and array.size else ''
        raise DataError(f'Expected an image as an array (H, W, 3), BGR, found {array.dtype} {array.shape}.{hint}')
    array = _eight_bits(array)[..., :3]
    return [np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array)]


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f'Expected an image of uint8 (0 to 255), uint16 or floating-point numbers (0 to 1), found {array.dtype}. '
            'Convert it, as image.astype(numpy.uint8).'
        )
    least, most = float(array.min()), float(array.max())
    if not (least >= 0 and most <= 1):  # NaN too
        raise DataError(
            f'Expected floating-point numbers from 0 to 1, found {least:.4g} to {most:.4g}. An image that was '
            'normalised is no input: give it as it was. Of numbers from 0 to 255 make uint8: image.astype(numpy.uint8).'
        )
    return (array * 255).round().astype(np.uint8)


def _of_pil(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) BGR of an image of PIL; 16 bits become 8 as they do of a file, by their upper half."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                raise DataError(
                    f'The image has values from {values.min()} to {values.max()}; expected 0 to 65535 in the mode '
                    f'{image.mode!r}. Bring it to 8 bits first.'
                )
            return (values >> 8).astype(np.uint8)
        if image.mode == 'F':
            raise DataError('The image has floating-point values (mode F). Bring it to 8 bits first.')
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except (OSError, SyntaxError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'The image of PIL cannot be read: it is closed or cut short ({error}).') from error


# --- images ---------------------------------------------------------------------------------------------------


def load_image(source: Source, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """uint8 (H, W, 3) BGR, rotated by its EXIF entry.

    Args:
        source: An entry of :func:`image_list`.
        max_pixels: Height x width above which it is refused; ``None``: no limit.

    Raises:
        DataError: no image, or one that is too large.
    """
    if isinstance(source, (str, bytes)):
        load = LoadImage(max_pixels)
        load.remedy = _REMEDY
        if isinstance(source, str):
            return load.transform(dict(img_path=source))['img']
        name = getattr(source, 'name', '') or 'of the bytes given'
        return load.read(name, lambda: bytes(source), f'{len(source):,} bytes')
    if not isinstance(source, np.ndarray):
        raise DataError(f'Expected {_KINDS}, found {type(source).__name__}.')
    (image,) = _of_array(source) if source.ndim != 4 else [source]
    check_pixels(image.shape[1::-1], max_pixels, 'The image')
    return image


def source_name(source: Source, index: int) -> str:
    """Name of an image in results: its path, the name of its file, or its place in the list."""
    return (source if isinstance(source, str) else getattr(source, 'name', '')) or f'{index:08d}'


def file_names(inputs: Sequence[Source]) -> list[str]:
    """Name without suffix of the files of each image; those that would share a name are numbered."""
    names: dict[str, None] = {}
    for i, source in enumerate(inputs):
        stem = name = Path(source_name(source, i)).stem
        number = 1
        while name in names:
            number += 1
            name = f'{stem}_{number}'
        names[name] = None
    return list(names)
