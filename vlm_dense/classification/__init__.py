"""Classification of images by class names."""

from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.classification.few_shot import FewShotDataset
from vlm_dense.classification.hooks import ZeroShotComparisonHook
from vlm_dense.classification.metrics import Accuracy
from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.classification.transforms import PackClsInputs

__all__ = [
    'Accuracy',
    'CLIPClassifier',
    'ClsDataSample',
    'FewShotDataset',
    'PackClsInputs',
    'ZeroShotComparisonHook',
]
