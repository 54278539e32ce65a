"""OV-COCO and OV-LVIS: data sets with base and novel classes, of which only base boxes are trained on, and metrics."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset as _CocoDataset
from mmdet.datasets import LVISV1Dataset
from mmdet.evaluation import LVISMetric as _LVISMetric
from mmdet.evaluation import OVCocoMetric as _OVCocoMetric

from vlm_dense.colours import class_colours
from vlm_dense.detection.coco import CocoDataset, CocoMetric
from vlm_dense.errors import ClassNamesError, ConfigError, DataError, MissingLibraryError
from vlm_dense.libraries import how_to_install
from vlm_dense.registry import DATASETS, METRICS
from vlm_dense.vocabulary.class_names import read_class_names


def split_metainfo(classes: tuple[str, ...], novel: str) -> dict:
    """Metainfo of classes of which some are novel: those of a list that comes with the package."""
    held_out = {names[0] for names in read_class_names(novel)}
    return dict(
        classes=classes,
        base_classes=tuple(name for name in classes if name not in held_out),
        novel_classes=tuple(name for name in classes if name in held_out),
        palette=class_colours(classes),
    )


def _coco65() -> tuple[str, ...]:
    """The 65 classes in the order of COCO's ids."""
    chosen = {names[0] for part in ('base', 'novel') for names in read_class_names(f'ov-coco-{part}')}
    return tuple(name for name in _CocoDataset.METAINFO['classes'] if name in chosen)


def need_lvis() -> None:
    """Check whether the package is there that reads LVIS.

    Raises:
        MissingLibraryError: it is not.
    """
    if find_spec('lvis') is None:
        raise MissingLibraryError(f'LVIS needs the package lvis. {how_to_install("lvis")}')


class BaseBoxesOnly:
    """Mixin of data sets with ``base_classes`` in their metainfo: in training, boxes of other classes are left out.

    So the published annotation files serve as they are. Images without a box of a base class are left out too, unless
    ``filter_cfg`` keeps empty images.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """As in mmdet."""
        info = super().parse_data_info(raw_data_info)
        if not self.test_mode:
            base = set(self.metainfo['base_classes'])
            kept = {label for label, name in enumerate(self.metainfo['classes']) if name in base}
            info['instances'] = [one for one in info['instances'] if one['bbox_label'] in kept]
        return info

    def filter_data(self) -> list[dict]:
        """As in mmdet."""
        kept = super().filter_data()
        if self.test_mode or not (self.filter_cfg or {}).get('filter_empty_gt'):
            return kept
        kept = [info for info in kept if info['instances']]
        if not kept:
            raise DataError(f'No image of {self.ann_file} has a box of a base class.')
        return kept


@DATASETS.register_module()
class OVCocoDataset(BaseBoxesOnly, CocoDataset):
    """OV-COCO: 48 base and 17 novel classes of COCO 2017; its other 15 are left out.

    Labels count in the 65 classes, in the order of COCO's ids, in training and test. Training takes the boxes of base
    classes out of the published ``instances_train2017.json``; files that are converted for 65 classes do as well.

    Args:
        **kwargs: As in :class:`~vlm_dense.detection.coco.CocoDataset`.

    Raises:
        ClassNamesError: a file that lists 48 categories, as mmdet's ``coco2ovd.py`` writes it: labels would count in
            those 48, and a head of 65 classes would learn wrong names.
    """

    METAINFO = split_metainfo(_coco65(), 'ov-coco-novel')

    def load_data_list(self) -> list[dict]:
        """One dict an image."""
        try:
            return super().load_data_list()
        except ClassNamesError as error:
            if 'has no category' not in str(error):
                raise
            base, number = self.metainfo['base_classes'], len(self.metainfo['classes'])
            raise ClassNamesError(
                f'{error} Files of {len(base)} categories, as coco2ovd.py writes them for training, give labels that '
                f'count in {len(base)} classes, where {number} are expected. Use annotations/instances_train2017.json '
                'as published: in training this data set leaves out the boxes of novel classes itself.'
            ) from error


@DATASETS.register_module()
class OVLVISDataset(BaseBoxesOnly, LVISV1Dataset):
    """OV-LVIS: LVIS v1 with its 337 rare classes held out; 866 are base classes.

    Args:
        **kwargs: As in mmdet's ``LVISV1Dataset``.

    Raises:
        MissingLibraryError: no package ``lvis``.
    """

    METAINFO = split_metainfo(tuple(LVISV1Dataset.METAINFO['classes']), 'ov-lvis-novel')

    def load_data_list(self) -> list[dict]:
        """One dict an image."""
        need_lvis()
        return super().load_data_list()


@METRICS.register_module()
class OVCocoMetric(CocoMetric, _OVCocoMetric):
    """mmdet's ``OVCocoMetric`` over the images that were tested, as :class:`~vlm_dense.detection.coco.CocoMetric`.

    Gives ``base_ap50``, ``novel_ap50``, ``base_ap`` and ``novel_ap`` beside COCO's values; of all classes,
    ``bbox_mAP_50``. Classes without any box in the annotations count nowhere.

    Raises:
        ConfigError: a data set that does not say which classes are base and novel ones.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Values from 0 to 1."""
        absent = [key for key in ('base_classes', 'novel_classes') if key not in self.dataset_meta]
        if absent:
            raise ConfigError(
                f'OVCocoMetric: the data set has no {" and no ".join(absent)}. Give it metainfo=dict(base_classes=[...]'
                ", novel_classes=[...]), or take 'vlm_dense.OVCocoDataset'."
            )
        metrics = super().compute_metrics(results)
        if not self.format_only and not any(len(found['labels']) for _, found in results):
            metrics.update({f'{part}_{ap}': 0.0 for part in ('base', 'novel') for ap in ('ap', 'ap50')})
        return metrics


@METRICS.register_module()
class LVISMetric(_LVISMetric):
    """mmdet's ``LVISMetric``: AP of rare, common and frequent classes, ``bbox_APr`` and so on.

    ``test_cfg.rcnn.max_per_img`` must be 300.

    Raises:
        MissingLibraryError: no package ``lvis``.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        need_lvis()
        super().__init__(*args, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """As in mmdet."""
        if hasattr(np, 'float'):
            return super().compute_metrics(results)
        np.float = float  # a name that numpy 1.24 dropped and lvis 0.5.3 has
        try:
            return super().compute_metrics(results)
        finally:
            del np.float
