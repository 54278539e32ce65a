"""Data sets of more classes than 8 bits can count: ADE20K with all classes, PASCAL Context with all classes."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np
from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from PIL import Image

from vlm_dense.colours import class_colours
from vlm_dense.datasets.checks import LoadMask
from vlm_dense.errors import ClassNamesError, DataError
from vlm_dense.registry import DATASETS, TRANSFORMS

IGNORE = 65535
"""Label of pixels that count nowhere, in masks of 16 bits."""

_NUMBER = re.compile(r'^\s*\d+\s*[:\t]\s*')
_NO_CLASS = ('invalid_class_id', 'empty')


@TRANSFORMS.register_module()
class LoadWideMask(LoadMask):
    """Masks of one channel with up to 16 bits, as TIFF or PNG; ``LoadAnnotations`` keeps 8 bits of a label.

    Place ``vlm_dense.CheckSeg`` with ``ignore_index=65535`` behind it, and give the metric the same ``ignore_index``.
    """

    def _read(self, results: dict) -> None:
        """Add ``gt_seg_map``, uint16 (H, W)."""
        data = fileio.get(results['seg_map_path'], backend_args=self.backend_args)
        with Image.open(io.BytesIO(data)) as file:
            labels = np.asarray(file)
        if labels.size and (labels.min() < 0 or labels.max() > IGNORE):
            raise DataError(
                f'Mask {results["seg_map_path"]} holds the label {max(labels.max(), -labels.min())}, more than 16 bits '
                'hold. Expected class indices, and 65535 for pixels to ignore.'
            )
        results['gt_seg_map'] = labels.astype(np.uint16)
        results['seg_fields'].append('gt_seg_map')


class WideLabelDataset(BaseSegDataset):
    """Images ``*.jpg`` with masks ``*.tif`` of 16 bits, 65535 for pixels that count nowhere.

    Args:
        names_file: File of class names below ``data_root``, a class a line in label order, its names separated by
            commas; a number with a colon in front of them, as of the data sets' own lists, is left out. A class is
            called by its first name that no class before it has.
        data_root, **kwargs: As in mmseg.

    Raises:
        ClassNamesError: no such file, another number of classes, or a class whose names others have.
    """

    num_classes = 0
    names_file = 'classes.txt'
    remedy = ''
    label_remedy = 'Convert the mask again: labels count from 0 in the order of the names, and 65535 is ignored.'
    """End of the message on a label that is none."""

    def __init__(self, data_root: str = '', names_file: str | None = None, metainfo: dict | None = None, **kwargs: Any):
        metainfo = dict(metainfo or {})
        if 'classes' not in metainfo:
            metainfo['classes'] = self.read_names(os.path.join(data_root or '', names_file or self.names_file))
        metainfo.setdefault('palette', [list(colour) for colour in class_colours(metainfo['classes'])])
        own = dict(img_suffix='.jpg', seg_map_suffix='.tif', ignore_index=IGNORE, reduce_zero_label=False)
        super().__init__(data_root=data_root, metainfo=metainfo, **{**own, **kwargs})

    @classmethod
    def expected_files(cls, dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads."""
        root = dataset.get('data_root') or ''
        folders = dataset.get('data_prefix') or {}
        places = [
            (os.path.join(root, folders.get(key) or ''), f'*{suffix}', f'data_prefix.{key}')
            for key, suffix in (('img_path', '.jpg'), ('seg_map_path', '.tif'))
        ]
        if not (dataset.get('metainfo') or {}).get('classes'):
            places.append((os.path.join(root, dataset.get('names_file') or cls.names_file), '', 'names_file'))
        return places

    @classmethod
    def read_names(cls, path: str) -> tuple[str, ...]:
        """The name of each class."""
        kind = cls.__name__
        if not os.path.isfile(path):
            raise ClassNamesError(
                f'{kind} has no class names: expected {cls.num_classes} lines in {path}, which does not exist. '
                f'{cls.remedy}'
            )
        with open(path, encoding='utf-8-sig') as file:
            lines = [_NUMBER.sub('', line).strip() for line in file]
        entries = [[name.strip() for name in line.split(',') if name.strip()] for line in lines if line]
        entries = [names for names in entries if names and names[0] not in _NO_CLASS]
        if len(entries) != cls.num_classes:
            raise ClassNamesError(
                f'{path} names {len(entries)} classes, but {kind} has {cls.num_classes}. {cls.remedy}'
            )
        taken: dict[str, int] = {}
        found = []
        for label, names in enumerate(entries):
            name = next((name for name in names if name.lower() not in taken), None)
            if name is None:
                raise ClassNamesError(
                    f'{path}: class {label} has no name of its own, {names[0]!r} is also class '
                    f'{taken[names[0].lower()]}. Give it another name.'
                )
            taken[name.lower()] = label
            found.append(name)
        return tuple(found)


@DATASETS.register_module()
class ADE847Dataset(WideLabelDataset):
    """ADE20K with all classes that training and validation images have, A-847: a test of open vocabularies.

    Zhou et al., "Semantic understanding of scenes through the ADE20K dataset", IJCV 127, 2019. Masks and names are
    those that MaskFormer's conversion of the full data set makes, which the field tests on.
    """

    num_classes = 847
    remedy = 'Write the names of the conversion there, a class a line, or give names_file=... of the data set.'


@DATASETS.register_module()
class PascalContext459Dataset(WideLabelDataset):
    """PASCAL Context with all classes, PC-459: a test of open vocabularies.

    Mottaghi et al., "The role of context for object detection and semantic segmentation in the wild", CVPR 2014.
    ``labels.txt`` is the list that comes with the data, from '1: accordion' on; masks have its numbers less one.
    """

    num_classes = 459
    names_file = 'labels.txt'
    remedy = "Copy the data's own labels.txt there ('1: accordion', ...), or give names_file=... of the data set."
