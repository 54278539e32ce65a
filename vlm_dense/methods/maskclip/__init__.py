"""MaskCLIP: segmentation by a frozen CLIP, with no training."""

from vlm_dense.methods.maskclip.head import MaskCLIPHead
from vlm_dense.methods.maskclip.refinements import (
    Aliases,
    KeySmoothing,
    NamedBackground,
    PromptDenoising,
    Refinement,
    ThresholdBackground,
)
from vlm_dense.methods.maskclip.segmentor import MaskCLIP
from vlm_dense.methods.maskclip.towers import MaskCLIPResNet, MaskCLIPViT

__all__ = [
    'Aliases',
    'KeySmoothing',
    'MaskCLIP',
    'MaskCLIPHead',
    'MaskCLIPResNet',
    'MaskCLIPViT',
    'NamedBackground',
    'PromptDenoising',
    'Refinement',
    'ThresholdBackground',
]
