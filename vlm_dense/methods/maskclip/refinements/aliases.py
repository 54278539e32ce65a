"""From the cosines of names to those of classes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.methods.maskclip.refinements.base import Refinement
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import Aliases as Names

KINDS = ('max', 'mean', 'first')


@MODELS.register_module()
class Aliases(Refinement):
    """What a class with several names gets.

    Args:
        keep: The ``'max'`` or ``'mean'`` of the cosines of its names, or ``'first'``: names after the first, which is
            the published one in the lists of the package, are left out. Names of the background always give their
            maximum.
        keep_all: Classes that keep all names under ``'first'``, as a background that is written as many things.

    Raises:
        ConfigError: another word.
    """

    def __init__(self, keep: str = 'max', keep_all: Sequence[int] = ()):
        super().__init__()
        if keep not in KINDS:
            raise ConfigError(f'Aliases: keep (aliases of a MaskCLIPHead) must be one of {KINDS}, found {keep!r}.')
        self.keep = keep
        self.keep_all = tuple(keep_all)

    def change_names(self, classes: tuple[Names, ...]) -> tuple[Names, ...]:
        """All names of each class, or the first."""
        if self.keep != 'first':
            return classes
        return tuple(names if k in self.keep_all else names[:1] for k, names in enumerate(classes))

    def merge(self, scores: Tensor, classes: tuple[Names, ...], background: Collection[int]) -> Tensor:
        """Scores (B, K, h, w) of the classes out of those of their names (B, N, h, w); -inf for a class without name.

        Args:
            background: Classes that get the maximum in any case.
        """
        if all(len(names) == 1 for names in classes):
            return scores
        maps = []
        for k, each in enumerate(scores.split([len(names) for names in classes], dim=1)):
            if each.shape[1] == 0:
                maps.append(torch.full_like(scores[:, 0], -math.inf))
            elif self.keep == 'mean' and k not in background:
                maps.append(each.mean(dim=1))
            else:
                maps.append(each.amax(dim=1))
        return torch.stack(maps, dim=1)
