"""COCO-Object: the things of COCO, read from the label maps of COCO-Stuff."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import COCOStuffDataset

from vlm_dense.registry import DATASETS, TRANSFORMS

_THINGS = 80


@TRANSFORMS.register_module()
class ObjectLabels(BaseTransform):
    """From the labels of COCO-Stuff (0..79 things, 80..170 stuff, 255 none) to things 1..80, all else 0.

    So does the conversion that the field's COCO-Object comes from: what is not labelled counts as background. Place it
    behind ``LoadAnnotations``.
    """

    def transform(self, results: dict) -> dict:
        """Change ``gt_seg_map`` (H, W)."""
        labels = results['gt_seg_map'].astype(np.int64)
        results['gt_seg_map'] = np.where(labels < _THINGS, labels + 1, 0).astype(results['gt_seg_map'].dtype)
        return results


@DATASETS.register_module()
class COCOObjectDataset(COCOStuffDataset):
    """COCO-Stuff's images and label maps, for :class:`ObjectLabels`: background and 80 things.

    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
    """

    METAINFO = dict(
        classes=('background', *COCOStuffDataset.METAINFO['classes'][:_THINGS]),
        palette=[[0, 0, 0], *COCOStuffDataset.METAINFO['palette'][:_THINGS]],
    )
