"""From cosines of names to labels of classes, as SCLIP and its successors decide."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.segmentation.pamr import PAMR


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
        two_steps: An image in one piece goes to the size at which it was segmented first and to its original size
            then, as windows do; else it goes to its original size at once.
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

    def refine(self, cosines: Tensor, image: Tensor) -> Tensor:
        """Cosines (N, H, W) refined by PAMR, if there is one, on the image (3, h, w) at their size."""
        if self.pamr is None:
            return cosines
        image = F.interpolate(image[None].float(), cosines.shape[1:], mode='bilinear', align_corners=False)[0]
        return self.pamr(image)(cosines)

    def __call__(self, cosines: Tensor, owners: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Scores and labels of an image.

        Args:
            cosines: (N, H, W).
            owners: The class of each name, (N,).

        Returns:
            Scores (K, H, W) and labels (H, W), int64.
        """
        owners = torch.as_tensor(owners, device=cosines.device)
        names = (self.scale * cosines).softmax(dim=0)
        scores = torch.stack([names[owners == k].amax(dim=0) for k in range(int(owners.max()) + 1)])
        if self.area_thresh is not None:
            scores = self._without_small(scores)
        best, labels = scores.max(dim=0)
        labels = labels.masked_fill(best < self.prob_thresh, 0)
        return scores / scores.sum(dim=0) if self.sum_to_one else scores, labels

    def _without_small(self, scores: Tensor) -> Tensor:
        pixels = scores.argmax(dim=0).flatten().bincount(minlength=len(scores))
        kept = pixels > self.area_thresh * pixels[1:].sum()
        kept[0] = True
        return scores * kept[:, None, None]
