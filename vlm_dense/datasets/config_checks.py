"""Checks of the data sets of a config before anything is built: files that are there, class names, labels of masks.

A mistake is named with the key or the file that it is in.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import TRANSFORMS
from mmseg.datasets.basesegdataset import BaseSegDataset
from mmseg.datasets.transforms.loading import LoadAnnotations

from vlm_dense.datasets.checks import CheckSeg, LoadMask, absent_files, other_case
from vlm_dense.datasets.placeholders import of_tasks
from vlm_dense.errors import ConfigError, DataError, first_of
from vlm_dense.registry import registered

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_COCO = 'train2017.zip, val2017.zip and annotations_trainval2017.zip of https://cocodataset.org/#download'
_STUFF = 'train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip of https://github.com/nightrome/cocostuff'
_SOURCES = {
    'ADE20KDataset': 'ADEChallengeData2016.zip of http://data.csail.mit.edu/places/ADEchallenge',
    'CityscapesDataset': 'leftImg8bit and gtFine of https://www.cityscapes-dataset.com, with an account',
    'COCOObjectDataset': _STUFF,
    'COCOStuffDataset': _STUFF,
    'CocoDataset': _COCO,
    'OVCocoDataset': _COCO,
    'PascalVOCDataset': 'VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012',
}
"""Class of a data set -> where its files come from."""


def _inner(dataset: dict) -> dict | Sequence[dict] | None:
    """What a wrapper has inside."""
    return dataset.get('dataset') or of_tasks(dataset.get('datasets'), dataset.get('tasks'))


def leaves(dataset: dict, path: str) -> Iterator[tuple[str, dict]]:
    """(config key, config) of the data sets inside wrappers (RepeatDataset, ConcatDataset, ...)."""
    inner = _inner(dataset)
    if isinstance(inner, dict):
        yield from leaves(inner, f'{path}.dataset')
    elif isinstance(inner, (list, tuple)):
        for i, one in enumerate(inner):
            yield from leaves(one, f'{path}.datasets.{i}')
    else:
        yield path, dataset


def _datasets(cfg: Config, loaders: Sequence[str]) -> Iterator[tuple[str, dict, type]]:
    """(config key, config, class) of every mmengine data set that ``cfg`` names."""
    for name in loaders:
        loader = cfg.get(name)
        if loader and isinstance(loader.get('dataset'), dict):
            for key, dataset in leaves(loader['dataset'], f'{name}.dataset'):
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
    """Check whether the data that a config names are there.

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
    for key, dataset, kind in _datasets(cfg, loaders):
        if issubclass(kind, BaseSegDataset) and _is_local(dataset):
            _check_pairs(key, _without_files(dataset))


def _missing_message(cfg: Config, places: list[tuple]) -> str:
    roots = {root for *_, root, _ in places if root}
    lines, missing = [], [p for p in places if not os.path.exists(p[1])]
    for key, path, content, argument, *_ in places:
        found = 'found' if os.path.exists(path) else 'MISSING'
        lines.append(f'  {found:8}{os.path.join(path, content) if content else path}   ({key}.{argument})')
    kinds = ', '.join(sorted({kind for *_, kind in missing}))
    absent_roots = [root for root in sorted(roots) if not os.path.isdir(root)]
    what = f'the folder {" and ".join(absent_roots)} does not exist' if absent_roots else 'part of them is missing'
    if cfg.get('data_root'):
        remedy = '--data-root DIR'
    else:
        keys = sorted({f'{key}.{"data_root" if root else argument}' for key, _, _, argument, root, _ in missing})
        remedy = '--cfg-options ' + ' '.join(f'{k}=DIR' for k in keys)
    sources = {_SOURCES[kind] for *_, kind in missing if kind in _SOURCES}
    get = ''.join(f'\nThey are in {source}.' for source in sorted(sources))
    return (
        f'The data of {kinds} are not there: {what} (looked from {os.getcwd()}). Expected:\n'
        + '\n'.join(dict.fromkeys(lines))
        + f'{get}\nIf you have them elsewhere, say where: {remedy}'
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
    _check_suffix(key, dataset, images)
    for field, what in (('img_path', 'images'), ('seg_map_path', 'masks')):
        paths = [info[field] for info in infos if info.get(field)]
        absent = absent_files(paths)
        if absent:
            names = first_of(absent, 3)
            raise DataError(
                f'{key}: {len(absent)} of {len(infos)} {what} are missing: {names}. Every image needs a mask of the '
                f'same name ending in {dataset.seg_map_suffix}. Add the files, or list the images to use in ann_file.'
            )


def _check_suffix(key: str, dataset, images: str) -> None:
    """Refuse files that mmseg's data sets leave out because the case of their suffix is another one."""
    suffix = dataset.img_suffix
    if dataset.ann_file or not os.path.isdir(images) or getattr(dataset, 'any_case', False):
        return
    others = other_case(images, suffix)
    if others:
        raise DataError(
            f'{key}: {len(others)} images end in another case than img_suffix={suffix!r}, as {others[0]}, and would be '
            'left out. Rename them, or list the images to use in ann_file.'
        )


def class_names(cfg: Config, loaders: Sequence[str] = LOADERS, key: str = 'classes') -> tuple[str, ...] | None:
    """Class names of the first data set in ``cfg`` that has some, in label order; no file is read.

    Args:
        cfg: A config of any mm task.
        loaders: Which of its data loaders to look at.
        key: Of the metainfo; ``'base_classes'`` of open-vocabulary detection.
    """
    datasets = [cfg[name]['dataset'] for name in loaders if isinstance((cfg.get(name) or {}).get('dataset'), dict)]
    return next((names for dataset in datasets if (names := _names(dataset, key)) is not None), None)


def _names(dataset: dict, key: str) -> tuple[str, ...] | None:
    """Class names of a data set or of those inside a wrapper: the first one's, or all if the wrapper joins them."""
    kind = registered(ROOT_DATASETS, dataset['type'])
    inner = _inner(dataset)
    if inner:
        parts = [_names(one, key) for one in ([inner] if isinstance(inner, dict) else inner)]
        if getattr(kind, 'joins_classes', False) and None not in parts:
            return tuple(name for names in parts for name in names)
        return next((names for names in parts if names is not None), None)
    if not (inspect.isclass(kind) and issubclass(kind, BaseDataset)):
        return None
    names = _without_files(dataset).metainfo.get(key)
    return None if names is None else tuple(names)


# --- masks ----------------------------------------------------------------------------------------------------


def check_masks(cfg: Config) -> None:
    """Check masks as they are read: :class:`LoadMask` instead of mmseg's ``LoadAnnotations``.

    Pipelines of mmseg's data sets that check no labels get a :class:`CheckSeg`. What the test pipeline checks, a
    ``tta_pipeline`` checks as well.
    """
    for name in LOADERS:
        loader = cfg.get(name)
        if loader and isinstance(loader.get('dataset'), dict):
            for _, dataset in leaves(loader['dataset'], name):
                _load_masks(dataset.get('pipeline') or [])
                _check_labels(cfg, dataset)
    augmented = cfg.get('tta_pipeline')
    if augmented:
        _load_masks(augmented)
        loader = cfg.get('test_dataloader') or {}
        tested = [d.get('pipeline') or [] for _, d in leaves(loader.get('dataset') or {}, '')] if loader else []
        checks = [step for pipeline in tested for step in pipeline if _is(step, CheckSeg)]
        if checks and not any(_is(step, CheckSeg) for step in _steps(augmented)):
            _check_behind_masks(augmented, checks[0])


def _check_labels(cfg: Config, dataset: dict) -> None:
    """Compare the labels of a data set with its number of classes, if nothing does yet."""
    kind, pipeline = registered(ROOT_DATASETS, dataset['type']), dataset.get('pipeline') or []
    if not (inspect.isclass(kind) and issubclass(kind, BaseSegDataset)):
        return
    names = _names(dataset, 'classes')
    head = cfg.model.get('decode_head') or {}
    ignored = head.get('ignore_index', 255) if isinstance(head, dict) else 255
    if names and not any(_is(step, CheckSeg) for step in _steps(pipeline)):
        check = dict(type='vlm_dense.CheckSeg', num_classes=len(names), ignore_index=ignored)
        if hasattr(kind, 'label_remedy'):
            check['remedy'] = kind.label_remedy
        _check_behind_masks(pipeline, check)


def _steps(pipeline) -> Iterator[dict]:
    """The steps of a pipeline, those inside of others (``TestTimeAug``, ``RandomChoice``) too."""
    for step in pipeline:
        if isinstance(step, dict):
            yield step
            yield from _steps(step.get('transforms') or [])
        elif isinstance(step, (list, tuple)):
            yield from _steps(step)


def _is(step, kind: type) -> bool:
    if not isinstance(step, dict) or 'type' not in step:
        return False
    try:
        return registered(TRANSFORMS, step['type']) is kind
    except (KeyError, ConfigError):  # an unknown name is reported when it is built
        return False


def _load_masks(pipeline) -> None:
    for step in _steps(pipeline):
        if _is(step, LoadAnnotations):
            step['type'] = 'vlm_dense.LoadMask'


def _check_behind_masks(pipeline: list, check: dict) -> None:
    """Put a check right behind the loading of masks, also where steps are lists of alternatives."""
    for i, step in enumerate(pipeline):
        if _is(step, LoadMask):
            pipeline.insert(i + 1, check)
            return
        if isinstance(step, (list, tuple)) and any(_is(one, LoadMask) for one in step):
            pipeline.insert(i + 1, [check])
            return
        if isinstance(step, dict) and step.get('transforms'):
            _check_behind_masks(step['transforms'], check)
