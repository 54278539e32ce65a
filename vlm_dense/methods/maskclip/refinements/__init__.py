"""What happens between the cosines of names and the maps of classes: parts of a config, one file each."""

from vlm_dense.methods.maskclip.refinements.aliases import Aliases
from vlm_dense.methods.maskclip.refinements.background import NamedBackground, ThresholdBackground
from vlm_dense.methods.maskclip.refinements.base import ClassMaps, Refinement
from vlm_dense.methods.maskclip.refinements.denoising import PromptDenoising
from vlm_dense.methods.maskclip.refinements.options import build_refinements
from vlm_dense.methods.maskclip.refinements.smoothing import KeySmoothing

__all__ = [
    'Aliases',
    'ClassMaps',
    'KeySmoothing',
    'NamedBackground',
    'PromptDenoising',
    'Refinement',
    'ThresholdBackground',
    'build_refinements',
]
