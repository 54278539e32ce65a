"""Detection beyond the methods: COCO data sets, regions classified by text. Importing this module registers them."""

from vlm_dense.light import quietly

with quietly():
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

from vlm_dense.detection.coco import CocoDataset, CocoFileDataset, CocoMetric  # noqa: E402
from vlm_dense.detection.open_vocabulary import OpenVocabularySingleStage, OpenVocabularyTwoStage  # noqa: E402
from vlm_dense.detection.open_vocabulary_data import (  # noqa: E402
    LVISMetric,
    OVCocoDataset,
    OVCocoMetric,
    OVLVISDataset,
)
from vlm_dense.detection.panoptic import (  # noqa: E402
    CocoPanopticDataset,
    CocoPanopticMetric,
    LoadPanopticAnnotations,
)
from vlm_dense.detection.regions import AttentionPoolScorer, CornerRoIExtractor, DenseMapScorer, fuse  # noqa: E402
from vlm_dense.detection.text_head import TextBBoxHead, TextRetinaHead, TextRoIHead  # noqa: E402

__all__ = [
    'AttentionPoolScorer',
    'CocoDataset',
    'CocoFileDataset',
    'CocoMetric',
    'CocoPanopticDataset',
    'CocoPanopticMetric',
    'CornerRoIExtractor',
    'DenseMapScorer',
    'LVISMetric',
    'LoadPanopticAnnotations',
    'OVCocoDataset',
    'OVCocoMetric',
    'OVLVISDataset',
    'OpenVocabularySingleStage',
    'OpenVocabularyTwoStage',
    'TextBBoxHead',
    'TextRetinaHead',
    'TextRoIHead',
    'fuse',
]
