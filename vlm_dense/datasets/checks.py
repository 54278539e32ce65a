"""Checks on files as they are read: pictures (:class:`LoadImage`), masks (:class:`CheckSeg`), lists of files."""

from __future__ import annotations

import os

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from PIL import Image

from vlm_dense.errors import DataError
from vlm_dense.registry import TRANSFORMS

_WIDE_MODES = ('I;16', 'I;16B', 'I', 'F')  # of PIL: more than 8 bits a pixel


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


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names a file which is no readable image.

    Greyscale, palette, RGBA, CMYK and 16-bit files all give uint8 (H, W, 3) BGR, alpha dropped, as in mmcv.

    Raises:
        DataError: the file is missing, empty, cut short or no image.
    """

    def transform(self, results: dict) -> dict | None:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise DataError(f'Image {path} does not exist.') from error
        except (cv2.error, AssertionError, OSError) as error:
            size = f'{os.path.getsize(path):,} bytes' if os.path.isfile(path) else 'unknown size'
            raise DataError(
                f'Image {path} ({size}) cannot be read: it is empty, cut short or no image. Replace it, or leave it '
                'out of ann_file.'
            ) from error


@TRANSFORMS.register_module()
class CheckSeg(BaseTransform):
    """Look at the mask that ``LoadAnnotations`` read; place it right after.

    Args:
        num_classes: Labels must be below it, or ``ignore_index``.
        ignore_index: Label of pixels that count nowhere.

    Raises:
        DataError: a label out of range, a mask in colours in place of labels, or one of another size than its image;
            names the file.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict) -> dict:
        """Return ``results`` as they are."""
        labels, path = results['gt_seg_map'], results.get('seg_map_path', 'unknown')
        if labels.ndim != 2:
            raise DataError(
                f'Mask {path} has {labels.shape[-1]} channels; expected one, whose values are class indices. Convert '
                'colour-coded masks to indices first.'
            )
        height, width = results['ori_shape']
        if labels.shape != (height, width):
            raise DataError(
                f'Mask {path} has {labels.shape[1]}x{labels.shape[0]} pixels, its image {results["img_path"]} '
                f'{width}x{height}; they must be of one size.'
            )
        self._check_wide(path)
        counts = np.bincount(labels.ravel(), minlength=256)
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
        with Image.open(path) as image:
            if image.mode in _WIDE_MODES:
                greatest = int(np.asarray(image).max())
                if greatest > 255:
                    self._complain(path, f'{greatest}, more than 8 bits hold')

    def _complain(self, path: str, found: str) -> None:
        raise DataError(
            f'Mask {path} holds the label {found}. Expected 0 to {self.num_classes - 1}, or {self.ignore_index} for '
            'pixels to ignore. Mend the mask, or set num_classes and reduce_zero_label to suit it.'
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'
