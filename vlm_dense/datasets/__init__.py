"""Data sets of all tasks. Importing this module registers them."""

from vlm_dense.datasets.camvid import CamVidDataset
from vlm_dense.datasets.checks import CheckSeg, LoadImage, LoadMask
from vlm_dense.datasets.coco_object import COCOObjectDataset, ObjectLabels
from vlm_dense.datasets.custom import ClassFolderDataset, MaskFolderDataset
from vlm_dense.datasets.shapes import DrawScene, ShapesDataset, shapes_metainfo
from vlm_dense.datasets.suppress import SuppressLabels

__all__ = [
    'COCOObjectDataset',
    'CamVidDataset',
    'CheckSeg',
    'ClassFolderDataset',
    'DrawScene',
    'LoadImage',
    'LoadMask',
    'MaskFolderDataset',
    'ObjectLabels',
    'ShapesDataset',
    'SuppressLabels',
    'shapes_metainfo',
]
