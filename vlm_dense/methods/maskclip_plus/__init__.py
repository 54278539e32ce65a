"""MaskCLIP+: a segmentation network trained on the labels that a frozen MaskCLIP gives."""

from vlm_dense.methods.maskclip_plus.head import MaskCLIPPlusHead
from vlm_dense.methods.maskclip_plus.segmentor import MaskCLIPPlus

__all__ = ['MaskCLIPPlus', 'MaskCLIPPlusHead']
