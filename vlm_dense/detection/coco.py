"""COCO data sets and their metric, with errors where mmdet would continue with wrong labels."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections import Counter
from functools import lru_cache
from typing import Any

from mmdet.datasets import CocoDataset as _CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as _CocoMetric
from mmengine.logging import print_log

from vlm_dense.colours import class_colours
from vlm_dense.datasets.checks import absent_files
from vlm_dense.datasets.custom import check_split, part_of
from vlm_dense.errors import ClassNamesError, DataError, first_of
from vlm_dense.registry import DATASETS, METRICS


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fill_areas(annotations: list[dict]) -> None:
    """Set missing areas of annotations, which mmdet and pycocotools need, to that of their box."""
    for annotation in annotations:
        box = annotation.get('bbox')
        if annotation.get('area') is None and isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
            annotation['area'] = max(box[2], 0) * max(box[3], 0)


class _CheckedCOCO(COCO):
    """An annotation file; its categories must be the classes."""

    def __init__(self, annotation_file: str):
        self.path = annotation_file
        try:
            super().__init__(annotation_file)
            self._check_lists()
        except DataError:
            raise
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(
                f'{annotation_file} cannot be read as COCO annotations ({type(error).__name__}: {error}). Expected '
                'JSON with images, annotations and categories.'
            ) from error
        if not self.cats or not self.imgs:
            raise DataError(f'{annotation_file} lists no {"images" if self.cats else "categories"}.')
        self._check_category_ids()
        self._check_entries()

    def _check_lists(self) -> None:
        """Ids are there once, the three lists are lists of objects; an absent area is that of the box."""
        for key in ('images', 'annotations', 'categories'):
            entries = self.dataset.get(key)
            if not isinstance(entries, list) or any(not isinstance(e, dict) or 'id' not in e for e in entries):
                raise DataError(f'{self.path}: expected {key} to be a list of objects with an id.')
            twice = [id_ for id_, number in Counter(entry['id'] for entry in entries).items() if number > 1]
            if twice:
                raise DataError(
                    f'{self.path}: {len(twice)} ids of {key} are there more than once, as {twice[0]!r}; one would take '
                    "the other's place. Number them again."
                )
        names = Counter(category.get('name') for category in self.dataset['categories'])
        if '' in names or not all(isinstance(name, str) for name in names) or max(names.values(), default=1) > 1:
            raise DataError(f'{self.path}: categories need names, each once; found {list(names)[:10]!r}.')
        _fill_areas(self.dataset['annotations'])
        for annotation in self.dataset['annotations']:
            if not _is_number(annotation.get('area', 0)):
                raise DataError(
                    f'{self.path}: annotation {annotation["id"]} has the area {annotation["area"]!r}; expected a '
                    'number of pixels, or none.'
                )

    def _check_entries(self) -> None:
        """Every image has a name and a size, every annotation a box and an image of the file."""
        for image in self.imgs.values():
            for key, kind in (('file_name', str), ('height', int), ('width', int)):
                if not isinstance(image.get(key), kind):
                    raise DataError(f'{self.path}: image {image["id"]} has {key} {image.get(key)!r}. Fix the entry.')
        for annotation in self.anns.values():
            told = f'{self.path}: annotation {annotation["id"]}'
            if annotation.get('image_id') not in self.imgs:
                raise DataError(
                    f'{told} has image_id {annotation.get("image_id")}, which its images do not list. Take it out, or '
                    'add the image.'
                )
            box = annotation.get('bbox')
            if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
                raise DataError(f'{told} has the bbox {box!r}; expected [x, y, width, height], four finite numbers.')
        self._check_corners()

    def _check_corners(self) -> None:
        """Tell boxes that look like two corners, of which most leave their image as [x, y, width, height]."""
        beyond = corners = 0
        for annotation in self.anns.values():
            x, y, width, height = annotation['bbox']
            image = self.imgs[annotation['image_id']]
            beyond += x + width > image['width'] + 1 or y + height > image['height'] + 1
            corners += x <= width <= image['width'] + 1 and y <= height <= image['height'] + 1
        if beyond > len(self.anns) / 3 and corners == len(self.anns):
            raise DataError(
                f'{self.path}: {beyond} of {len(self.anns)} boxes leave their image, and all would fit if they were '
                '[x1, y1, x2, y2]. COCO has [x, y, width, height]: convert them.'
            )

    def _check_category_ids(self) -> None:
        unknown = {a['category_id'] for a in self.anns.values()} - set(self.cats)
        if unknown:
            first = next(a for a in self.anns.values() if a['category_id'] in unknown)
            raise DataError(
                f'{self.path}: annotation {first["id"]} has category_id {first["category_id"]}, which its categories '
                f'do not list; {len(unknown)} ids are unknown. Correct them, or add the categories.'
            )

    def get_cat_ids(self, cat_names=(), *args, **kwargs) -> list[int]:
        """Ids of the classes, in label order."""
        names, known = list(cat_names), [c['name'] for c in self.cats.values()]
        absent = [n for n in names if n not in known]
        if absent:
            near = difflib.get_close_matches(absent[0], known, n=3)
            hint = f' Did you mean {" or ".join(map(repr, near))}?' if near else ''
            raise ClassNamesError(
                f'{self.path} has no category {absent[0]!r}; {len(absent)} of the {len(names)} classes are not in it. '
                f'It lists {first_of(known, 10)}.{hint} Name the classes to use '
                'with --classes; in a config, in metainfo=dict(classes=[...]) of the data sets.'
            )
        ids = super().get_cat_ids(names, *args, **kwargs)
        order = [self.cats[i]['name'] for i in ids]
        if order != names:
            raise ClassNamesError(
                f'The classes must be in the order of {self.path}, since labels are counted in it: expected '
                f'{order[:10]}, found {names[:10]}.'
            )
        left_out = Counter(a['category_id'] for a in self.anns.values() if a['category_id'] not in set(ids))
        if left_out:
            listed = ', '.join(f'{self.cats[i]["name"]} ({n})' for i, n in left_out.most_common(10))
            print_log(
                f'{self.path}: annotations of {len(left_out)} categories that are no classes are left out: {listed}.',
                logger='current',
            )
        return ids


@DATASETS.register_module()
class CocoDataset(_CocoDataset):
    """mmdet's ``CocoDataset``, which checks the annotation file when it is read.

    Categories of the file that are no classes are left out, and the log says so. Boxes without area, outside the image
    or less than a pixel wide are left out by mmdet.

    Raises:
        ClassNamesError: classes that the file lacks or lists in another order, where mmdet would give wrong labels.
        DataError: no COCO file, unknown category ids, images that do not exist, or nothing left to train on.
    """

    COCOAPI = _CheckedCOCO

    def load_data_list(self) -> list[dict]:
        """One dict an image."""
        infos = super().load_data_list()
        if (self.backend_args or {}).get('backend', 'local') == 'local':
            absent = absent_files([info['img_path'] for info in infos])
            if absent:
                raise DataError(
                    f'{self.ann_file} names {len(infos)} images, of which {len(absent)} do not exist: '
                    f'{first_of(absent, 3)}. Add them, set data_prefix.img, or '
                    'take them out of the file.'
                )
        return infos

    def filter_data(self) -> list[dict]:
        """The images to train on, or all of them to test."""
        kept = super().filter_data()
        if not kept:
            raise DataError(
                f'No image of {self.ann_file} is left: none is large enough and has a box of the classes '
                f'{", ".join(self.metainfo["classes"][:10])}. Look at metainfo.classes and filter_cfg.'
            )
        return kept


@DATASETS.register_module()
class CocoFileDataset(CocoDataset):
    """Detection data of the user's own: a COCO file and a folder of images.

    ``DATA_ROOT/images`` has the images that the file names. There are two files, ``DATA_ROOT/train.json`` and
    ``DATA_ROOT/val.json``, or a single one, ``DATA_ROOT/annotations.json``; then every fifth image is for
    validation. Names of classes are those of the file's categories, in its order.

    Args:
        data_root: The folder.
        split: 'train' or 'val'.
        metainfo: ``classes``, if only some are wanted.
        **kwargs: As in :class:`mmdet.datasets.CocoDataset`.

    Raises:
        ClassNamesError, DataError: as :class:`CocoDataset`; no file.
    """

    METAINFO: dict = {}

    def __init__(self, data_root: str, split: str = 'train', metainfo: dict | None = None, **kwargs):
        check_split(split)
        self.split = split
        file = self._file(data_root, split)
        metainfo = dict(metainfo or {})
        metainfo['classes'] = metainfo.get('classes') or _categories(file)
        metainfo.setdefault('palette', class_colours(metainfo['classes']))
        super().__init__(
            data_root=data_root,
            ann_file=os.path.basename(file),
            data_prefix=dict(img='images'),
            metainfo=metainfo,
            **kwargs,
        )

    @staticmethod
    def expected_files(dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads."""
        root = dataset.get('data_root') or ''
        file = CocoFileDataset._file(root, dataset.get('split', 'train'))
        return [(os.path.join(root, 'images'), '*', 'data_root'), (file, '', 'data_root')]

    @staticmethod
    def _file(root: str, split: str) -> str:
        own = os.path.join(root, f'{split}.json')
        return own if os.path.isfile(own) else os.path.join(root, 'annotations.json')

    def load_data_list(self) -> list[dict]:
        """One dict an image of the split."""
        infos = super().load_data_list()
        if os.path.basename(self.ann_file) == 'annotations.json':
            infos = part_of(sorted(infos, key=lambda info: info['img_path']), self.split)
        return infos


@lru_cache(maxsize=4)  # checks of a config ask several times before anything is trained
def _read_categories(file: str, changed: int) -> tuple[str, ...]:
    with open(file, encoding='utf-8') as stream:
        return tuple(category['name'] for category in json.load(stream)['categories'])


def _categories(file: str) -> list[str]:
    """Names of the categories of a COCO file, in its order."""
    try:
        return list(_read_categories(file, os.stat(file).st_mtime_ns))
    except OSError as error:
        raise DataError(
            f'The annotations {os.path.abspath(file)} cannot be read ({error.strerror}). Expected train.json and '
            'val.json, or annotations.json, beside the folder images; say where with --data-root DIR.'
        ) from error
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f'{file} cannot be read as COCO annotations ({type(error).__name__}: {error}). Expected JSON with images, '
            'annotations and categories.'
        ) from error


@METRICS.register_module()
class CocoMetric(_CocoMetric):
    """mmdet's ``CocoMetric`` over the images that were tested, so that ``indices`` of the data set may choose some.

    mmdet's own counts every image of ``ann_file``, and takes those that were not tested for misses. Where nothing at
    all was found, the mean average precision is 0, and not absent.

    Raises:
        DataError: ``ann_file`` does not exist.
    """

    def __init__(self, ann_file: str | None = None, **kwargs: Any):
        if ann_file is not None and '://' not in ann_file and not os.path.isfile(ann_file):
            raise DataError(
                f'The annotation file {ann_file} of the evaluator does not exist. --data-root DIR moves it with the '
                'data; elsewhere set val_evaluator.ann_file and test_evaluator.ann_file.'
            )
        super().__init__(ann_file, **kwargs)
        if self._coco_api is not None:
            _fill_areas(self._coco_api.dataset.get('annotations') or [])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """``<metric>_mAP`` and its parts."""
        self.img_ids = [found['img_id'] for _, found in results]
        metrics = super().compute_metrics(results)
        if not self.format_only and not any(len(found['labels']) for _, found in results):
            metrics.update({f'{m}_mAP': 0.0 for m in self.metrics if m in ('bbox', 'segm')})
        return metrics
