"""Data sets of images, read where their publishers and the CoOp group put the files."""

from vlm_dense.classification.datasets.image_set import ImageSetDataset
from vlm_dense.classification.datasets.layouts import SETS, is_multi_label, sentence_of
from vlm_dense.classification.datasets.unlabelled import UnlabelledDataset

__all__ = ['SETS', 'ImageSetDataset', 'UnlabelledDataset', 'is_multi_label', 'sentence_of']
