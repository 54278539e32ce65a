"""Data sets of all tasks. Importing this module registers them."""

from vlm_dense.datasets.shapes import DrawScene, ShapesDataset, shapes_metainfo

__all__ = ['DrawScene', 'ShapesDataset', 'shapes_metainfo']
