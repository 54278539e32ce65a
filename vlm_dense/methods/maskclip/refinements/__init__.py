"""MaskCLIP's steps between the cosines of names and the maps of classes of a window."""

from vlm_dense.methods.maskclip.refinements.background import Background, NamedBackground, ThresholdBackground
from vlm_dense.methods.maskclip.refinements.denoising import PromptDenoising
from vlm_dense.methods.maskclip.refinements.smoothing import KeySmoothing
from vlm_dense.segmentation.steps import Aliases, ClassMaps, Step

Refinement = Step  # its name before there were steps behind the head

__all__ = [
    'Aliases',
    'Background',
    'ClassMaps',
    'KeySmoothing',
    'NamedBackground',
    'PromptDenoising',
    'ThresholdBackground',
]
