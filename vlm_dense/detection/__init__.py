"""Detection: DenseCLIP for mmdet. Importing this module registers it."""

from vlm_dense.engine import quiet  # isort: skip  # noqa: F401  (first, before others import mmdet)
from vlm_dense.detection.denseclip import DenseCLIPDetection, DenseCLIPSingleStage, DenseCLIPTwoStage

__all__ = ['DenseCLIPDetection', 'DenseCLIPSingleStage', 'DenseCLIPTwoStage']
