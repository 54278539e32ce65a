"""Data sets of images with labels, read where their publishers and the CoOp group put the files."""

from vlm_dense.classification.datasets.image_set import ImageSetDataset
from vlm_dense.classification.datasets.layouts import SETS

__all__ = ['SETS', 'ImageSetDataset']
