"""Checks on files as they are read: images (:class:`LoadImage`), masks (:class:`LoadMask`, :class:`CheckSeg`)."""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Callable

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms.loading import LoadAnnotations
from PIL import Image, UnidentifiedImageError

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.registry import TRANSFORMS

_WIDE_MODES = ('I;16', 'I;16B', 'I', 'F')  # of PIL: more than 8 bits a pixel
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, AssertionError, cv2.error)  # of a damaged file
_ORIENTATION = 0x0112
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.swapaxes(image, 0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.swapaxes(np.rot90(image, 2), 0, 1),
    8: np.rot90,
}
"""EXIF orientation -> what shows the image upright."""
_PNG_NOTES = (b'eXIf', b'tEXt', b'zTXt', b'iTXt')
"""Chunks of a PNG that may hold an orientation."""
_unlimited = threading.Lock()


def absent_files(paths: list[str]) -> list[str]:
    """Paths that do not exist; one look per folder, for data sets of 100,000 files on a network disk."""
    listed: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            absent.append(path)
    return absent


def other_case(folder: str, suffix: str) -> list[str]:
    """Files below a folder that end in a suffix, but for the case of its letters."""
    return [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name.lower().endswith(suffix.lower()) and not name.endswith(suffix)
    ]


def open_header(source: str | bytes) -> Image.Image:
    """An image with only its header read, of any size; close it.

    Pillow's own limit, which counts pixels before anybody can ask for them, is off meanwhile.
    """
    with _unlimited:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_pixels(size: tuple[int, int], max_pixels: int | None, what: str) -> None:
    """Refuse an image by its header, before memory is allocated for it.

    Args:
        size: Width and height.
        max_pixels: Greatest number of pixels; ``None``: any.
        what: For the message, as 'Image a.png'.

    Raises:
        DataError: more pixels than that.
    """
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise DataError(
            f'{what} has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are read. Make it '
            'smaller, or raise the limit: max_pixels of vlm_dense.LoadImage and of the inferencers, --max-pixels of '
            'the programs.'
        )


def check_limit(max_pixels: int | None) -> int | None:
    """The limit as it was given.

    Raises:
        ConfigError: no positive integer.
    """
    if max_pixels is not None and (not isinstance(max_pixels, int) or isinstance(max_pixels, bool) or max_pixels < 1):
        raise ConfigError(f'max_pixels must be a positive integer, or None for no limit, found {max_pixels!r}.')
    return max_pixels


def check_plain(path: str) -> None:
    """Refuse what stands instead of a file and would be read without end: a pipe, a device, a folder.

    Raises:
        DataError: names it.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f'{path} is no file but a folder, a pipe or a device. Give a file.')


def _elsewhere(path: str, error: Exception) -> DataError:
    why = f' ({error})' if isinstance(error, ImportError) else ''
    return DataError(
        f'{path} lies in a storage that cannot be read{why}: expected a file, http:// or https://. Copy it to this '
        'machine, or install what reads it.'
    )


def _size_of(path: str) -> str:
    return f'{os.path.getsize(path):,} bytes' if os.path.isfile(path) else 'unknown size'


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names a file which is no readable image, and refuses one that is too large.

    Greyscale, palette, RGBA, CMYK and 16-bit files all give uint8 (H, W, 3) BGR, alpha dropped, as in mmcv. The image
    is turned as its EXIF entry says, in every format.

    Args:
        max_pixels: Height x width above which a file is refused; ``None``: no limit.
        **kwargs: mmcv's.

    Raises:
        DataError: the file is missing, empty, cut short, no image, or has too many pixels.
    """

    remedy = 'Replace it, or leave it out of the data.'
    """End of the message on a file that cannot be read."""

    def __init__(self, max_pixels: int | None = MAX_PIXELS, **kwargs):
        super().__init__(**kwargs)
        self.max_pixels = check_limit(max_pixels)

    def transform(self, results: dict) -> dict | None:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        image = self.read(path, lambda: self._bytes(path), _size_of(path))
        if image is None:
            return None
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def read(self, path: str, get: Callable[[], bytes], size: str) -> np.ndarray | None:
        """Pixels of a file; None for a broken one with ``ignore_empty``.

        Args:
            path: Its name.
            get: Gives its bytes.
            size: In words, for messages.

        Raises:
            DataError: see the class.
        """
        try:
            return self.decode(get(), f'Image {path}')
        except FileNotFoundError as error:
            raise DataError(f'Image {path} does not exist.') from error
        except (KeyError, ImportError) as error:  # of mmengine, which has a backend for each prefix
            if '://' not in path:
                raise
            raise _elsewhere(path, error) from error
        except DataError:
            raise
        except _BROKEN as error:
            if self.ignore_empty:
                return None
            why = getattr(error, 'reason', None) or (error.strerror if isinstance(error, OSError) else None)
            why = f': {why}' if why else ''
            raise DataError(
                f'Image {path} ({size}) cannot be read{why or ": it is empty, cut short or no image"}. {self.remedy}'
            ) from error

    def _bytes(self, path: str) -> bytes:
        check_plain(path)
        if self.file_client_args is not None:  # mmcv's old way
            return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        return fileio.get(path, backend_args=self.backend_args)

    def decode(self, data: bytes, what: str) -> np.ndarray:
        """Pixels of the bytes of a file; ``what`` names it in messages."""
        with open_header(data) as header:
            check_pixels(header.size, self.max_pixels, what)
            turn = _turn(header, data)
        flag = self.color_type
        own = turn is not None and flag == 'color' and self.imdecode_backend == 'cv2'  # cv2 knows EXIF of few formats
        image = mmcv.imfrombytes(data, 'color_ignore_orientation' if own else flag, backend=self.imdecode_backend)
        if image is None:
            raise UnidentifiedImageError(what)
        return np.ascontiguousarray(turn(image)) if own else image


def _turn(header: Image.Image, data: bytes) -> Callable[[np.ndarray], np.ndarray] | None:
    """What shows an image upright; None for nothing."""
    if header.format == 'TIFF':  # cv2 turns it always
        return None
    if header.format == 'PNG' and not _has_notes(data):  # Pillow decodes a PNG to its end to find them
        return None
    return _TURNS.get(header.getexif().get(_ORIENTATION))


def _has_notes(png: bytes) -> bool:
    """Whether a PNG has one of the chunks that may hold an orientation."""
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from('>I4s', png, at)
        if kind in _PNG_NOTES:
            return True
        at += length + 12
    return False


@TRANSFORMS.register_module()
class LoadMask(LoadAnnotations):
    """mmseg's ``LoadAnnotations`` that names a mask that cannot be read or has values that are no labels.

    ``tools/train.py`` and ``tools/test.py`` put it instead of ``LoadAnnotations`` of mmseg.

    Args:
        max_pixels: As of :class:`LoadImage`.
        **kwargs: mmseg's.

    Raises:
        DataError: the file is missing, empty, cut short, too large, or has floating-point values.
    """

    def __init__(self, max_pixels: int | None = MAX_PIXELS, **kwargs):
        super().__init__(**kwargs)
        self.max_pixels = check_limit(max_pixels)

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        try:
            check_plain(path)
            shape = self._look_at_header(path) if os.path.isfile(path) else None
            self._read(results)
        except FileNotFoundError as error:
            raise DataError(f'Mask {path} does not exist.') from error
        except (KeyError, ImportError) as error:
            if '://' not in path:
                raise
            raise _elsewhere(path, error) from error
        except DataError:
            raise
        except _BROKEN as error:
            raise DataError(
                f'Mask {path} ({_size_of(path)}) cannot be read: it is empty, cut short or no image. Replace it, or '
                'leave its image out of the data.'
            ) from error
        labels = results['gt_seg_map']
        if shape and labels.ndim < 2:  # mmseg drops a side of one pixel
            results['gt_seg_map'] = labels.reshape(shape)

    def _read(self, results: dict) -> None:
        """Add ``gt_seg_map``."""
        super()._load_seg_map(results)

    def _look_at_header(self, path: str) -> tuple[int, int]:
        with open_header(path) as header:
            check_pixels(header.size, self.max_pixels, f'Mask {path}')
            if header.mode == 'F':
                raise DataError(
                    f'Mask {path} has floating-point values; expected whole numbers, the class indices. Convert it.'
                )
            return header.size[::-1]


@TRANSFORMS.register_module()
class CheckSeg(BaseTransform):
    """Check the mask that ``LoadAnnotations`` read; to be placed right after it.

    Args:
        num_classes: Labels must be below it, or ``ignore_index``.
        ignore_index: Label of pixels that count nowhere.
        remedy: End of the message on a label that is none.

    Raises:
        DataError: a label out of range, a mask in colours instead of labels, or one of another size than its image;
            names the file.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        remedy: str = 'Fix the mask, or set num_classes and reduce_zero_label to suit it.',
    ):
        self.num_classes, self.ignore_index, self.remedy = num_classes, ignore_index, remedy

    def transform(self, results: dict) -> dict:
        """Return ``results`` as they are."""
        labels, path = results['gt_seg_map'], results.get('seg_map_path', 'unknown')
        if labels.ndim == 3:
            raise DataError(
                f'Mask {path} has {labels.shape[-1]} channels; expected one of class indices. Convert '
                'colour-coded masks to indices first.'
            )
        height, width = results['ori_shape']
        if labels.shape != (height, width):
            raise DataError(
                f'Mask {path} has {"x".join(map(str, labels.shape[::-1])) or "1x1"} pixels, its image '
                f'{results["img_path"]} {width}x{height}; they must be of one size.'
            )
        if self.ignore_index <= 255:
            self._check_wide(path)
        counts = np.bincount(labels.ravel(), minlength=max(256, self.num_classes, self.ignore_index + 1))
        counts[: self.num_classes] = counts[self.ignore_index] = 0
        if counts.any():
            values = np.flatnonzero(counts)
            shift = ' (after reduce_zero_label took 1 off)' if results.get('reduce_zero_label') else ''
            self._complain(path, ', '.join(f'{v} in {counts[v]} pixels' for v in values[:5]) + shift)
        return results

    def _check_wide(self, path: str) -> None:
        """``LoadAnnotations`` keeps the low 8 bits of a mask only."""
        if not os.path.isfile(path):
            return
        with open_header(path) as image:
            if image.mode in _WIDE_MODES:
                values = np.asarray(image)
                wrong = values[(values < 0) | (values > 255) | (values != np.floor(values)) | np.isnan(values)]
                if wrong.size:
                    self._complain(path, f'{wrong[0]}, ' + ('more than 8 bits hold' if wrong[0] > 255 else 'no index'))

    def _complain(self, path: str, found: str) -> None:
        raise DataError(
            f'Mask {path} holds the label {found}. Expected 0 to {self.num_classes - 1}, or {self.ignore_index} for '
            f'pixels to ignore. {self.remedy}'
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'
