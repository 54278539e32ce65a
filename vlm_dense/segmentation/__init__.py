"""Segmentation beyond the methods: inference by windows, refinement, baselines, metrics."""

from vlm_dense.segmentation.confusion import ConfusionMatrix
from vlm_dense.segmentation.deeplab_v2 import ASPPHeadV2
from vlm_dense.segmentation.inference import BatchedInference, CLIPEncoderDecoder, MixedSizeSegDataPreProcessor
from vlm_dense.segmentation.metrics import VariantIoU
from vlm_dense.segmentation.naming import ClassNamesHook, set_class_names
from vlm_dense.segmentation.oracles import OracleMetric
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.postprocess import PostProcess
from vlm_dense.segmentation.seen_unseen import SeenUnseenIoUMetric
from vlm_dense.segmentation.steps import (
    Aliases,
    AreaThreshold,
    ClassMaps,
    OriginalSize,
    PlaneStep,
    Probabilities,
    ProbabilityThreshold,
    Step,
    SumToOne,
)
from vlm_dense.segmentation.strips import StripLossHook, use_strips
from vlm_dense.segmentation.tta import StripTTAModel

__all__ = [
    'ASPPHeadV2',
    'Aliases',
    'AreaThreshold',
    'BatchedInference',
    'CLIPEncoderDecoder',
    'ClassMaps',
    'ClassNamesHook',
    'ConfusionMatrix',
    'MixedSizeSegDataPreProcessor',
    'OracleMetric',
    'OriginalSize',
    'PAMR',
    'PlaneStep',
    'PostProcess',
    'Probabilities',
    'ProbabilityThreshold',
    'SeenUnseenIoUMetric',
    'Step',
    'StripLossHook',
    'StripTTAModel',
    'SumToOne',
    'VariantIoU',
    'set_class_names',
    'use_strips',
]
