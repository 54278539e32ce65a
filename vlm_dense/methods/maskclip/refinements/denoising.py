"""MaskCLIP's prompt denoising."""

from __future__ import annotations

from dataclasses import replace

from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import ClassMaps, Step

SUPPRESSED = -100.0
"""Logit of a class that was taken out, on the scale of cosines."""


@MODELS.register_module()
class PromptDenoising(Step):
    """A class that is nowhere in an image as probable as ``thresh`` is taken out of it.

    "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.

    Args:
        thresh: Probability.
    """

    def __init__(self, thresh: float = 0.5):
        super().__init__()
        self.thresh = thresh

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """Cosines with :data:`SUPPRESSED` for absent classes."""
        absent = maps.probabilities.amax(dim=(2, 3), keepdim=True) < self.thresh
        return replace(maps, values=maps.values.masked_fill(absent, 0.0 if maps.kind == 'weights' else SUPPRESSED))
