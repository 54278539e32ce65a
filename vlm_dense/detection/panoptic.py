"""COCO panoptic: data, annotations and metric of mmdet, with errors where segments do not match, without panopticapi.

mmdet takes the code of colours and the counts of the panoptic quality from panopticapi, which no package index has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmdet.datasets import CocoPanopticDataset as _CocoPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.datasets.transforms import LoadPanopticAnnotations as _LoadPanopticAnnotations
from mmdet.evaluation import CocoPanopticMetric as _CocoPanopticMetric
from mmdet.evaluation.functional import panoptic_utils
from mmdet.evaluation.metrics import coco_panoptic_metric

from vlm_dense.errors import DataError
from vlm_dense.registry import DATASETS, METRICS, TRANSFORMS


def rgb2id(colour: np.ndarray) -> np.ndarray:
    """Ids (H, W) of segments from colours (H, W, 3), red the lowest byte."""
    return np.asarray(colour, dtype=np.int32) @ np.array([1, 256, 65536], dtype=np.int32)


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3), uint8, of ids (H, W)."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


@dataclass
class Count:
    """Of a category: matched, wrong and missed segments, and the sum of the IoU of those that match."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __iadd__(self, other: Count) -> Count:
        self.iou, self.tp, self.fp, self.fn = (
            self.iou + other.iou,
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
        )
        return self


class PanopticCounts:
    """Counts of all categories, from which the panoptic quality follows (Kirillov et al., CVPR 2019, section 4)."""

    def __init__(self):
        self.of: defaultdict[int, Count] = defaultdict(Count)

    def __getitem__(self, category: int) -> Count:
        return self.of[category]

    def __iadd__(self, other: PanopticCounts) -> PanopticCounts:
        for category, count in other.of.items():
            self.of[category] += count
        return self

    def pq_average(self, categories: Mapping[int, dict], isthing: bool | None) -> tuple[dict, dict]:
        """Means of ``pq``, ``sq`` and ``rq`` over categories with a segment, their number ``n``; and of each category.

        Args:
            categories: Id -> entry of the annotation file.
            isthing: Only things, or only stuff; ``None``: all.
        """
        each = {}
        for category, entry in categories.items():
            if isthing is not None and isthing != (entry['isthing'] == 1):
                continue
            count = self.of[category]
            total = count.tp + (count.fp + count.fn) / 2
            quality = count.iou / count.tp if count.tp else 0.0
            recognised = count.tp / total if total else 0.0
            each[category] = dict(pq=quality * recognised, sq=quality, rq=recognised, there=total > 0)
        there = [one for one in each.values() if one.pop('there')]
        means = {key: sum(one[key] for one in there) / max(len(there), 1) for key in ('pq', 'sq', 'rq')}
        return dict(means, n=len(there)), each


def stand_in() -> None:
    """Give mmdet's metric what it takes from panopticapi, if that is not installed."""
    if coco_panoptic_metric.panopticapi is None:
        own = dict(rgb2id=rgb2id, id2rgb=id2rgb, VOID=0, PQStat=PanopticCounts)
        for name, value in dict(own, panopticapi=panoptic_utils).items():
            setattr(coco_panoptic_metric, name, value)
        for name, value in dict(own, OFFSET=256**3).items():
            setattr(panoptic_utils, name, value)


@METRICS.register_module()
class CocoPanopticMetric(_CocoPanopticMetric):
    """mmdet's metric; it also runs without panopticapi."""

    def __init__(self, *args: Any, **kwargs: Any):
        stand_in()
        super().__init__(*args, **kwargs)


@DATASETS.register_module()
class CocoPanopticDataset(_CocoPanopticDataset):
    """mmdet's data set; the ids of all segments of an image come with it, for :class:`LoadPanopticAnnotations`.

    Raises:
        DataError: a segment of a category that the file does not list.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """As in mmdet, and ``segment_ids``."""
        own = raw_data_info['raw_img_info']
        segments = [ann for ann in raw_data_info['raw_ann_info'] if ann['image_id'] == own['img_id']]
        for ann in segments:
            if ann['category_id'] not in self.cat2label:
                raise DataError(
                    f'{self.ann_file}: segment {ann["id"]} of {own["file_name"]} has category_id '
                    f'{ann["category_id"]}, which is no class of the data set. Correct it, or name the classes in '
                    'metainfo=dict(classes=[...], thing_classes=[...], stuff_classes=[...]).'
                )
        return dict(super().parse_data_info(raw_data_info), segment_ids=[ann['id'] for ann in segments])


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(_LoadPanopticAnnotations):
    """mmdet's step; it also runs without panopticapi.

    Raises:
        DataError: a PNG that is not there or of another size than its image, or segments of it that do not match
            those of the annotation file; names the file.
    """

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = True,
        with_seg: bool = True,
        box_type: str = 'hbox',
        backend_args: dict | None = None,
    ):
        self.rgb2id = self._ids
        options = dict(with_bbox=with_bbox, with_label=with_label, with_mask=with_mask, with_seg=with_seg)
        LoadAnnotations.__init__(self, **options, box_type=box_type, backend_args=backend_args)

    def _ids(self, colour: np.ndarray) -> np.ndarray:
        self.found = rgb2id(colour)
        return self.found

    def _load_masks_and_semantic_segs(self, results: dict) -> None:
        path = results.get('seg_map_path')
        if path is None:
            return
        self.found, size, why = None, tuple(results['ori_shape']), None
        try:
            super()._load_masks_and_semantic_segs(results)
        except FileNotFoundError as error:
            raise DataError(f'{path}, the segments of {results["img_path"]}, does not exist.') from error
        except (AttributeError, ValueError) as error:  # no image, or one of another size
            why = error
        found = self.found
        if found is not None and found.shape != size:
            raise DataError(
                f'{path} has {found.shape[1]}x{found.shape[0]} pixels, its image {results["img_path"]} '
                f'{size[1]}x{size[0]}; they must be of one size.'
            ) from why
        if why is not None:
            raise DataError(f'{path}, the segments of {results["img_path"]}, cannot be read: {why}.') from why
        drawn = set(np.unique(found).tolist()) - {0}
        listed = set(results.get('segment_ids', drawn))
        for wrong, here, there in (
            (drawn - listed, 'the PNG', 'the annotation file'),
            (listed - drawn, 'the annotation file', 'the PNG'),
        ):
            if wrong:
                raise DataError(
                    f'{path}: {len(wrong)} segments of {here} are not in {there}, as {min(wrong)}. An id is R + 256 G '
                    '+ 65536 B of its pixels. Give the PNG and the annotations of one release.'
                )
