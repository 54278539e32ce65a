"""Segmentation: segmentors, heads and decoders for mmseg configs."""

from vlm_dense.segmentation.context_decoder import ContextDecoder
from vlm_dense.segmentation.denseclip import DenseCLIP
from vlm_dense.segmentation.heads import IdentityHead
from vlm_dense.segmentation.inference import BatchedInference, CLIPEncoderDecoder, MixedSizeSegDataPreProcessor

__all__ = [
    'BatchedInference',
    'CLIPEncoderDecoder',
    'ContextDecoder',
    'DenseCLIP',
    'IdentityHead',
    'MixedSizeSegDataPreProcessor',
]
