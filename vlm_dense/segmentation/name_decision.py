"""From cosines of names to labels of classes, as SCLIP and its successors decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.strip_maps import StripMaps


class NameDecision:
    """Labels from the probabilities of all names; a class is as probable as the most probable of its names.

    With N names of K classes, in an image of original size (H, W):

        p = softmax over names of scale * cosine;  score of a class = max over its names of p

    Class 0 stands for the background by its place: it gets the pixels without a class of probability ``prob_thresh``.
    "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024, and the released code.

    Args:
        scale: Inverse temperature.
        prob_thresh: Pixels whose largest score is below this get class 0; 0: off.
        area_thresh: Classes that have no more than this share of the pixels that are not of class 0 are taken out of
            the image; None: off. It goes before ``prob_thresh``.
        sum_to_one: Return scores divided by their sum over classes; labels are the same.
        two_steps: A whole image goes to the size at which it was segmented first and to its original size then, as
            windows do; else it goes to its original size at once.
        pamr: Arguments of :class:`~vlm_dense.segmentation.pamr.PAMR`, which then refines the cosines at original size.

    Raises:
        ConfigError: a scale that is not positive, or a threshold that is no share.
    """

    def __init__(
        self,
        scale: float = 40.0,
        prob_thresh: float = 0.0,
        area_thresh: float | None = None,
        sum_to_one: bool = False,
        two_steps: bool = False,
        pamr: dict | None = None,
    ):
        if scale <= 0:
            raise ConfigError(f'NameDecision: scale must be positive, found {scale}.')
        for name, value in (('prob_thresh', prob_thresh), ('area_thresh', area_thresh or 0.0)):
            if not 0 <= value < 1:
                raise ConfigError(f'NameDecision: {name} must be at least 0 and below 1, found {value}.')
        self.scale = scale
        self.prob_thresh = prob_thresh
        self.area_thresh = area_thresh
        self.sum_to_one = sum_to_one
        self.two_steps = two_steps
        self.pamr = None if pamr is None else PAMR(**pamr)

    def refinement(self, image: Tensor, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """PAMR of cosines (n, H, W) on the image (3, h, w) at their size (H, W), name by name."""
        return self.pamr(F.interpolate(image[None].float(), size, mode='bilinear', align_corners=False)[0])

    def refine(self, cosines: Tensor, image: Tensor) -> Tensor:
        """Cosines (N, H, W) refined by PAMR, if there is one, on the image (3, h, w)."""
        return cosines if self.pamr is None else self.refinement(image, cosines.shape[1:])(cosines)

    def __call__(self, cosines: Tensor, owners: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Scores and labels of an image.

        Args:
            cosines: (N, H, W).
            owners: The class of each name, (N,), ascending.

        Returns:
            Scores (K, H, W) and labels (H, W), int64.
        """
        scores = self._scores(cosines, owners)
        if self.area_thresh is not None:
            scores = scores * self._kept(_counts(scores.argmax(dim=0), len(scores)))[:, None, None]
        labels = self._labels(*scores.max(dim=0))
        return scores / scores.sum(dim=0) if self.sum_to_one else scores, labels

    def labels(self, maps: StripMaps, owners: Tensor | Sequence[int]) -> Tensor:
        """The labels (H, W), of cosines that are brought to their size a few rows at a time."""
        kept = None
        if self.area_thresh is not None:
            number = int(torch.as_tensor(owners).max()) + 1
            strips = (self._scores(rows.movedim(-1, 0), owners).argmax(dim=0) for _, rows in maps.strips())
            kept = self._kept(sum(_counts(each, number) for each in strips))
        found = []
        for _, rows in maps.strips():
            scores = self._scores(rows.movedim(-1, 0), owners)
            scores = scores if kept is None else scores * kept[:, None, None]
            found.append(self._labels(*scores.max(dim=0)))
        return torch.cat(found)

    def refined_labels(self, groups: Iterable[Tensor], owners: Tensor | Sequence[int]) -> Tensor:
        """The labels (H, W) of cosines that come a few names (n, H, W) at a time; without ``area_thresh``."""
        best = index = total = None
        start = 0
        for maps in groups:
            maps = self.scale * maps
            value, which = maps.max(dim=0)
            every = maps.logsumexp(dim=0)
            if best is None:
                best, index, total = value, which, every
            else:
                better = value > best
                best, index = torch.where(better, value, best), torch.where(better, which + start, index)
                total = torch.logaddexp(total, every)
            start += len(maps)
        return self._labels((best - total).exp(), torch.as_tensor(owners, device=index.device)[index])

    def _scores(self, cosines: Tensor, owners: Tensor | Sequence[int]) -> Tensor:
        """Scores (K, H, W) of cosines (N, H, W)."""
        owners = torch.as_tensor(owners, device=cosines.device)
        names, number = (self.scale * cosines).softmax(dim=0), int(owners.max()) + 1
        if number == len(names):
            return names
        index = owners[:, None, None].expand_as(names)
        return names.new_zeros(number, *names.shape[1:]).scatter_reduce_(0, index, names, 'amax')

    def _labels(self, best: Tensor, labels: Tensor) -> Tensor:
        return labels.masked_fill(best < self.prob_thresh, 0)

    def _kept(self, pixels: Tensor) -> Tensor:
        """Which classes are large enough, (K,), of the pixels of each."""
        kept = pixels > self.area_thresh * pixels[1:].sum()
        kept[0] = True
        return kept


def _counts(labels: Tensor, number: int) -> Tensor:
    return labels.flatten().bincount(minlength=number)
