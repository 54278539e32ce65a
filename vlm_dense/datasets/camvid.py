"""CamVid in the usual 11 classes."""

from __future__ import annotations

import os
from typing import Any

from mmseg.datasets.basesegdataset import BaseSegDataset

from vlm_dense.datasets.checks import other_case
from vlm_dense.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """Road scenes of 480 x 360 px: images ``*.jpg``, masks ``*.png`` with 0..10 and 255 for void.

    Brostow, Fauqueur and Cipolla, "Semantic object classes in video: a high-definition ground truth database",
    Pattern Recognition Letters 30(2), 2009.
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs: Any):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)

    any_case = True
    """Whether files are found whatever the case of their suffix."""

    def load_data_list(self) -> list[dict]:
        """One dict an image, in the order of their paths; ``.JPG`` beside ``.jpg`` too."""
        infos, images = super().load_data_list(), self.data_prefix.get('img_path') or ''
        if self.ann_file:
            return infos
        masks = self.data_prefix.get('seg_map_path')
        for path in other_case(images, self.img_suffix):
            info = dict(img_path=path)
            if masks is not None:
                name = os.path.relpath(path, images)[: -len(self.img_suffix)] + self.seg_map_suffix
                info['seg_map_path'] = os.path.join(masks, name)
            infos.append(dict(info, label_map=self.label_map, reduce_zero_label=self.reduce_zero_label, seg_fields=[]))
        return sorted(infos, key=lambda info: info['img_path'])
