"""Classification of images by class names."""

from vlm_dense.classification.captions import CaptionDataset, CaptionFileDataset
from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.classification.contrastive import ContrastivePretraining, RandomViews
from vlm_dense.classification.data_preprocessor import ClsDataPreprocessor
from vlm_dense.classification.datasets import ImageSetDataset, UnlabelledDataset
from vlm_dense.classification.feature_cache import FeatureDataset
from vlm_dense.classification.few_shot import FewShotDataset
from vlm_dense.classification.hooks import CostHook, ZeroShotComparisonHook
from vlm_dense.classification.metrics import Accuracy, MultiLabelMetric
from vlm_dense.classification.pseudo_labels import PseudoLabelDataset
from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.classification.tasks import TaskAccuracy, TaskDataset
from vlm_dense.classification.taxonomy import Taxonomy, TaxonomyMetric
from vlm_dense.classification.transforms import PackClsInputs, TorchvisionTransforms

__all__ = [
    'Accuracy',
    'CLIPClassifier',
    'CaptionDataset',
    'CaptionFileDataset',
    'ClsDataPreprocessor',
    'ClsDataSample',
    'ContrastivePretraining',
    'CostHook',
    'FeatureDataset',
    'FewShotDataset',
    'ImageSetDataset',
    'MultiLabelMetric',
    'PackClsInputs',
    'PseudoLabelDataset',
    'TaskAccuracy',
    'TaskDataset',
    'Taxonomy',
    'RandomViews',
    'TaxonomyMetric',
    'TorchvisionTransforms',
    'UnlabelledDataset',
    'ZeroShotComparisonHook',
]
