"""Pixel-adaptive mask refinement.

"Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import PlaneStep

_ROWS = 64
"""Of the affinities that are normalised at a time."""
_OFFSETS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


@MODELS.register_module()
class PAMR(PlaneStep):
    """Moves mask borders to edges of the image: each pixel takes the mean of its neighbours, weighted by affinity.

    The neighbours N(i) of pixel i are the 8 around it at each of the dilations; outside the image its border is
    repeated. With the standard deviation sigma_i of the intensities of N(i) and i, which counts once for each of the
    dilations, one a colour channel,

        k(i, j) = mean over channels of -|I_i - I_j| / (0.1 sigma_i)
        alpha(i, j) = softmax over j in N(i) of k(i, j)
        m_i <- sum over j in N(i) of alpha(i, j) m_j        (``iterations`` times)

    The paper divides by sigma_i^2; the form here, that of the paper's released code, does not depend on the scale of
    the intensities, so normalised images do as well as pixels. Each class is refined by itself.

    Args:
        iterations: How often the masks are averaged.
        dilations: Distances of the neighbours in pixels.

    Raises:
        ConfigError: an argument that is not positive.

    Examples:
        >>> image = torch.zeros(3, 8, 8)
        >>> image[:, :, 4:] = 1  # an edge in the middle
        >>> masks = torch.zeros(1, 8, 8)
        >>> masks[:, :, 3:] = 1  # a mask that goes beyond it
        >>> refined = PAMR(iterations=20, dilations=(1, 2)).on(image)(masks)
        >>> bool(refined[0, 4, 3] < masks[0, 4, 3])
        True
    """

    def __init__(self, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)):
        super().__init__()
        if iterations < 1 or not dilations or min(dilations) < 1:
            raise ConfigError(
                f'PAMR: iterations and dilations must be positive, found {iterations} and {list(dilations)}.'
            )
        self.iterations = iterations
        self.dilations = tuple(dilations)

    def on(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that refines masks (n, H, W) of ``image`` (3, H, W); the affinities are computed once.

        Masks of another size are brought to that of the image first, bilinearly with aligned corners.
        """
        affinity = self._affinity(image)

        def refine(masks: Tensor) -> Tensor:
            if masks.shape[1:] != image.shape[1:]:
                masks = F.interpolate(masks[None], image.shape[1:], mode='bilinear', align_corners=True)[0]
            for _ in range(self.iterations):
                padded = self._pad(masks)
                refined = torch.zeros_like(masks)
                for weight, neighbour in zip(affinity, self._neighbours(padded, masks.shape[1:]), strict=True):
                    refined.addcmul_(neighbour, weight.to(masks.dtype))
                masks = refined
            return masks

        return refine

    def _pad(self, maps: Tensor) -> Tensor:
        return F.pad(maps[None], (max(self.dilations),) * 4, mode='replicate')[0]

    def _neighbours(self, padded: Tensor, size: torch.Size):
        """Views (n, H, W) of the padded maps, one a neighbour."""
        height, width = size
        margin = max(self.dilations)
        for d in self.dilations:
            for dy, dx in _OFFSETS:
                y, x = margin + d * dy, margin + d * dx
                yield padded[:, y : y + height, x : x + width]

    def _affinity(self, image: Tensor) -> Tensor:
        """alpha, (N, H, W)."""
        image = image.float()
        padded = self._pad(image)
        own = len(self.dilations)
        count = 9 * own
        mean = (sum(self._neighbours(padded, image.shape[1:])) + own * image) / count
        square = sum((x - mean) ** 2 for x in self._neighbours(padded, image.shape[1:])) + own * (image - mean) ** 2
        sigma = (square / (count - 1)).sqrt()
        affinity = image.new_empty(8 * own, *image.shape[1:])  # the largest map of all, held once
        for weight, x in zip(affinity, self._neighbours(padded, image.shape[1:]), strict=True):
            weight.copy_(-((x - image).abs() / (0.1 * sigma + 1e-8)).mean(dim=0))
        for rows in affinity.split(_ROWS, dim=1):
            rows.copy_(rows.softmax(dim=0))
        return affinity
