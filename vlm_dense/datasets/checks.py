"""Checks on data, so that a mistake is named before or where it strikes, with the file it is in.

:func:`check_data` looks at the files of all data sets of a config before anything is built; ``tools/train.py`` and
``tools/test.py`` call it. :class:`LoadImage` and :class:`CheckSeg` look into files as they are read.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import Registry
from PIL import Image

from vlm_dense.errors import ClassNamesError, DataError
from vlm_dense.registry import TRANSFORMS

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_WIDE_MODES = ('I;16', 'I;16B', 'I', 'F')  # of PIL: more than 8 bits a pixel


# --- before anything is built ---------------------------------------------------------------------------------


def _leaves(dataset: dict, path: str) -> Iterator[tuple[str, dict]]:
    """(config key, config) of the data sets inside wrappers (RepeatDataset, ConcatDataset, ...)."""
    inner = dataset.get('dataset') or dataset.get('datasets')
    if isinstance(inner, dict):
        yield from _leaves(inner, f'{path}.dataset')
    elif isinstance(inner, (list, tuple)):
        for i, one in enumerate(inner):
            yield from _leaves(one, f'{path}.datasets.{i}')
    else:
        yield path, dataset


def registered(registry: Registry, kind: str | type) -> type:
    """Class of a ``type`` in a config, found as mmengine finds it.

    Raises:
        KeyError: unknown name, in mmengine's words.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as scoped:
        found = scoped.get(kind)
    if found is None:
        raise KeyError(f'{kind} is not in the {scoped.scope}::{scoped.name} registry.')
    return found


def _datasets(cfg: Config, loaders: Sequence[str]) -> Iterator[tuple[str, dict, type]]:
    """(config key, config, class) of every mmengine data set that ``cfg`` names."""
    for name in loaders:
        loader = cfg.get(name)
        if loader and isinstance(loader.get('dataset'), dict):
            for key, dataset in _leaves(loader['dataset'], f'{name}.dataset'):
                kind = registered(ROOT_DATASETS, dataset['type'])
                if inspect.isclass(kind) and issubclass(kind, BaseDataset):
                    yield key, dataset, kind


def _without_files(dataset: dict) -> BaseDataset:
    """The data set as it is before it reads anything."""
    return ROOT_DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})


def _argument(dataset: dict, kind: type, name: str, default=''):
    """Value of a constructor's argument: the config's, or the default of the first class that has one."""
    if name in dataset:
        return dataset[name]
    for cls in kind.__mro__:
        parameter = inspect.signature(cls.__init__).parameters.get(name)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return default


def _expected(dataset: dict, kind: type) -> list[tuple[str, str, str]]:
    """(path, what lies there, config key) of the files and folders that a data set reads."""
    if hasattr(kind, 'expected_files'):  # a layout of its own
        return kind.expected_files(dataset)
    root = dataset.get('data_root') or ''
    suffixes = dict(
        img_path=f'*{_argument(dataset, kind, "img_suffix")}',
        seg_map_path=f'*{_argument(dataset, kind, "seg_map_suffix")}',
    )
    places = []
    for key, folder in (_argument(dataset, kind, 'data_prefix', {}) or {}).items():
        if isinstance(folder, str) and (folder or root):
            places.append((os.path.join(root, folder), suffixes.get(key, ''), f'data_prefix.{key}'))
    if dataset.get('ann_file'):
        places.append((os.path.join(root, dataset['ann_file']), '', 'ann_file'))
    return places


def _is_local(dataset: dict) -> bool:
    return (dataset.get('backend_args') or {}).get('backend', 'local') == 'local'


def check_data(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Look whether the data that a config names are there.

    Folders and annotation files of every data set on local disk must exist; of mmseg's data sets, a split must not be
    empty and every image must exist and have a mask.

    Args:
        cfg: A config of any mm task.
        loaders: Which of its data loaders to look at.

    Raises:
        DataError: names what is missing, what was expected where, and the config key to change.
    """
    places = [
        (key, *place, dataset.get('data_root') or '', kind.__name__)
        for key, dataset, kind in _datasets(cfg, loaders)
        if _is_local(dataset)
        for place in _expected(dataset, kind)
    ]
    if any(not os.path.exists(path) for _, path, *_ in places):
        raise DataError(_missing_message(cfg, places))
    from mmseg.datasets import BaseSegDataset

    for key, dataset, kind in _datasets(cfg, loaders):
        if issubclass(kind, BaseSegDataset) and _is_local(dataset):
            _check_pairs(key, _without_files(dataset))


def _missing_message(cfg: Config, places: list[tuple]) -> str:
    roots = {root for *_, root, _ in places if root}
    lines, missing = [], [p for p in places if not os.path.exists(p[1])]
    for key, path, content, argument, *_ in places:
        found = 'found' if os.path.exists(path) else 'MISSING'
        lines.append(f'  {found:8}{os.path.join(path, content)}   ({key}.{argument})')
    kinds = ', '.join(sorted({kind for *_, kind in missing}))
    absent_roots = [root for root in sorted(roots) if not os.path.isdir(root)]
    what = f'the folder {" and ".join(absent_roots)} does not exist' if absent_roots else 'part of them is missing'
    if cfg.get('data_root'):
        remedy = '--data-root DIR'
    else:
        keys = sorted({f'{key}.{"data_root" if root else argument}' for key, _, _, argument, root, _ in missing})
        remedy = '--cfg-options ' + ' '.join(f'{k}=DIR' for k in keys)
    return (
        f'The data of {kinds} are not there: {what} (looked from {os.getcwd()}). Expected:\n'
        + '\n'.join(dict.fromkeys(lines))
        + f'\nIf you have them elsewhere, say where: {remedy}'
    )


def _check_pairs(key: str, dataset) -> None:
    infos = dataset.load_data_list()
    images = dataset.data_prefix.get('img_path') or ''
    if not infos:
        others = sorted({os.path.splitext(f)[1] for f in os.listdir(images)} - {''}) if os.path.isdir(images) else []
        raise DataError(
            f'{key} is empty: no {dataset.img_suffix} image in {images or dataset.ann_file}'
            + (f', but files ending in {", ".join(others[:5])}. Set img_suffix' if others else '. Set data_prefix')
            + f' of {key}.'
        )
    for field, what in (('img_path', 'images'), ('seg_map_path', 'masks')):
        paths = [info[field] for info in infos if info.get(field)]
        absent = absent_files(paths)
        if absent:
            names = ', '.join(absent[:3]) + (', ...' if len(absent) > 3 else '')
            raise DataError(
                f'{key}: {len(absent)} of {len(infos)} {what} are missing: {names}. Every image needs a mask of the '
                f'same name ending in {dataset.seg_map_suffix}. Add the files, or list the images to use in ann_file.'
            )


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


def class_names(cfg: Config, loaders: Sequence[str] = LOADERS) -> tuple[str, ...] | None:
    """Class names of the first data set in ``cfg`` that has some, in label order; no file is read."""
    found = (_names(cfg[name]['dataset']) for name in loaders if isinstance((cfg.get(name) or {}).get('dataset'), dict))
    return next((names for names in found if names is not None), None)


def _names(dataset: dict) -> tuple[str, ...] | None:
    """Class names of a data set or of those inside a wrapper: the first one's, or all if the wrapper joins them."""
    kind = registered(ROOT_DATASETS, dataset['type'])
    inner = dataset.get('dataset') or dataset.get('datasets')
    if inner:
        parts = [_names(one) for one in ([inner] if isinstance(inner, dict) else inner)]
        if getattr(kind, 'joins_classes', False) and None not in parts:
            return tuple(name for names in parts for name in names)
        return next((names for names in parts if names is not None), None)
    if not (inspect.isclass(kind) and issubclass(kind, BaseDataset)):
        return None
    names = _without_files(dataset).metainfo.get('classes')
    return None if names is None else tuple(names)


def _heads(model: dict, path: str = 'model') -> Iterator[tuple[str, dict]]:
    for key, value in model.items():
        for i, one in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(one, dict) and key != 'rpn_head':
                here = f'{path}.{key}.{i}' if isinstance(value, (list, tuple)) else f'{path}.{key}'
                if key.endswith('head') and isinstance(one.get('num_classes'), int):
                    yield here, one
                yield from _heads(one, here)


def check_class_count(cfg: Config, names: Sequence[str] | None) -> None:
    """Compare ``num_classes`` of every head of ``cfg.model`` with the names of the data set.

    Raises:
        ClassNamesError: they differ; names the config keys.
    """
    if names is None:
        return
    unlike = [(key, head['num_classes']) for key, head in _heads(cfg.model) if head['num_classes'] != len(names)]
    if unlike:
        found = ', '.join(f'{key}.num_classes={count}' for key, count in unlike)
        remedy = ' '.join(f'{key}.num_classes={len(names)}' for key, _ in unlike)
        raise ClassNamesError(
            f'The data set has {len(names)} classes ({", ".join(names[:3])}, ...), but {found}. '
            f'Use --cfg-options {remedy}, or name the classes to use in metainfo of the data sets.'
        )


# --- as files are read ----------------------------------------------------------------------------------------


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
