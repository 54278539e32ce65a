"""Segmentation beyond the methods: inference by windows, refinement, baselines, metrics."""

from vlm_dense.segmentation.deeplab_v2 import ASPPHeadV2
from vlm_dense.segmentation.inference import BatchedInference, CLIPEncoderDecoder, MixedSizeSegDataPreProcessor
from vlm_dense.segmentation.metrics import VariantIoU
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.seen_unseen import SeenUnseenIoUMetric
from vlm_dense.segmentation.strip_maps import StripTTAModel
from vlm_dense.segmentation.strips import StripLossHook, use_strips

__all__ = [
    'ASPPHeadV2',
    'BatchedInference',
    'CLIPEncoderDecoder',
    'MixedSizeSegDataPreProcessor',
    'PAMR',
    'SeenUnseenIoUMetric',
    'StripLossHook',
    'StripTTAModel',
    'VariantIoU',
    'use_strips',
]
