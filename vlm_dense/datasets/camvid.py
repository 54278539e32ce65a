"""CamVid in the usual 11 classes."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset

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

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)
