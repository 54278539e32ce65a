"""MaskCLIP's key smoothing."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import ClassMaps, Step

NORMS = {'position': 1, 'channel': 2}


@MODELS.register_module()
class KeySmoothing(Step):
    """Positions that are sure of nothing take the probabilities of positions with similar keys.

    What comes out are probabilities, and at replaced positions sums of all probabilities weighted by the products of
    the normalised keys; these are not bounded by 1. "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.

    Args:
        thresh: Positions without a class of this probability are replaced.
        norm: Along which axis the keys are normalised: ``'position'`` (official code) or ``'channel'`` (the paper's
            cosine similarity).

    Raises:
        ConfigError: another axis.
    """

    def __init__(self, thresh: float = 1.0, norm: str = 'position'):
        super().__init__()
        if norm not in NORMS:
            raise ConfigError(f'KeySmoothing: norm must be one of {tuple(NORMS)}, found {norm!r}.')
        self.thresh, self.norm = thresh, norm

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """Smoothed maps.

        Raises:
            ConfigError: there are no keys.
        """
        if maps.key is None:
            raise ConfigError(
                'KeySmoothing needs the keys of the positions, and the image tower gives none: attn_pooling, or a '
                'dense attention that returns no key. Leave KeySmoothing out.'
            )
        p = maps.probabilities
        key = F.normalize(maps.key, dim=NORMS[self.norm])
        smoothed = key @ (key.mT @ p.flatten(2).mT)  # (k k^T) p without the (hw, hw) product
        unsure = p.amax(dim=1, keepdim=True) < self.thresh
        values = torch.where(unsure, smoothed.mT.unflatten(2, p.shape[2:]), p)
        return self.outcome(replace(maps, values=values))

    def outcome(self, maps: ClassMaps) -> ClassMaps:
        """Sums of probabilities."""
        return replace(maps, kind='weights')
