"""Classification of images by class names."""

from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.classification.structures import ClsDataSample

__all__ = ['CLIPClassifier', 'ClsDataSample']
