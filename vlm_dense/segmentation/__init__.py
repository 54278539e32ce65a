"""Segmentation: segmentors, heads and decoders for mmseg configs."""

from vlm_dense.segmentation.context_decoder import ContextDecoder
from vlm_dense.segmentation.deeplab_v2 import ASPPHeadV2
from vlm_dense.segmentation.denseclip import DenseCLIP
from vlm_dense.segmentation.denseclip_any import PooledBackbone, TorchvisionBackbone
from vlm_dense.segmentation.heads import IdentityHead
from vlm_dense.segmentation.inference import BatchedInference, CLIPEncoderDecoder, MixedSizeSegDataPreProcessor
from vlm_dense.segmentation.maskclip import MaskCLIP, MaskCLIPHead
from vlm_dense.segmentation.maskclip_plus import MaskCLIPPlus, MaskCLIPPlusHead
from vlm_dense.segmentation.maskclip_towers import MaskCLIPResNet, MaskCLIPViT
from vlm_dense.segmentation.metrics import VariantIoU
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.seen_unseen import SeenUnseenIoUMetric
from vlm_dense.segmentation.strip_loss import StripLossHead, StripLossHook, use_strips
from vlm_dense.segmentation.strip_maps import StripTTAModel

__all__ = [
    'ASPPHeadV2',
    'BatchedInference',
    'CLIPEncoderDecoder',
    'ContextDecoder',
    'DenseCLIP',
    'IdentityHead',
    'MaskCLIP',
    'MaskCLIPHead',
    'MaskCLIPPlus',
    'MaskCLIPPlusHead',
    'MaskCLIPResNet',
    'MaskCLIPViT',
    'MixedSizeSegDataPreProcessor',
    'PAMR',
    'PooledBackbone',
    'SeenUnseenIoUMetric',
    'StripLossHead',
    'StripLossHook',
    'StripTTAModel',
    'TorchvisionBackbone',
    'VariantIoU',
    'use_strips',
]
