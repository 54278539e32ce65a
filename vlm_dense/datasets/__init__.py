"""Data sets of all tasks. Importing this module registers them."""

from vlm_dense.light import quietly

with quietly():
    import mmseg.datasets  # noqa: F401

from vlm_dense.datasets.camvid import CamVidDataset  # noqa: E402
from vlm_dense.datasets.checks import CheckSeg, LoadImage, LoadMask  # noqa: E402
from vlm_dense.datasets.coco_object import COCOObjectDataset, ObjectLabels  # noqa: E402
from vlm_dense.datasets.custom import ClassFolderDataset, MaskFolderDataset  # noqa: E402
from vlm_dense.datasets.shapes import DrawScene, ResizeImage, ShapesDataset, shapes_metainfo  # noqa: E402
from vlm_dense.datasets.suppress import SuppressLabels  # noqa: E402
from vlm_dense.datasets.web import WebDataset  # noqa: E402
from vlm_dense.datasets.wide import ADE847Dataset, LoadWideMask, PascalContext459Dataset  # noqa: E402

__all__ = [
    'ADE847Dataset',
    'COCOObjectDataset',
    'CamVidDataset',
    'CheckSeg',
    'ClassFolderDataset',
    'DrawScene',
    'LoadImage',
    'LoadMask',
    'LoadWideMask',
    'MaskFolderDataset',
    'ObjectLabels',
    'PascalContext459Dataset',
    'ResizeImage',
    'ShapesDataset',
    'SuppressLabels',
    'WebDataset',
    'shapes_metainfo',
]
