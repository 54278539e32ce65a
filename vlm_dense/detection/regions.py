"""Regions of images: their crops of maps, their embeddings by a frozen CLIP, and how two classifications are joined.

Shapes: N regions of B images, ``rois`` (N, 5) float32 as mmdet has them: the image's index, then x1 y1 x2 y2 in pixels
of the batch. R rows of text: the classes, padding, and the background last.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign, roi_align
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

BACKGROUNDS = ('detector', 'fused')


class CornerRoIAlign(RoIAlign):
    """One bilinear sample in the middle of each bin, with positions of the map at the corners of its cells.

    ``RoIAlign`` has them in the middle of the cells (``aligned=True``), or enlarges boxes that are smaller than a cell
    (``aligned=False``). This is F-VLM's crop, which does neither.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Crops (N, C, h, w) of the map (B, C, H, W)."""
        moved = torch.cat([rois[:, :1], rois[:, 1:] + 0.5 / self.spatial_scale], dim=1)
        return roi_align(input, moved, self.output_size, self.spatial_scale, 1, 'avg', True)


@MODELS.register_module()
class CornerRoIExtractor(SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor`` with :class:`CornerRoIAlign`.

    Args:
        output_size: Side of the crops.
        out_channels, featmap_strides, finest_scale, init_cfg: As in mmdet.
    """

    def __init__(self, output_size: int, out_channels: int, featmap_strides: list[float], **kwargs):
        layer = dict(type=CornerRoIAlign, output_size=output_size)
        super().__init__(layer, out_channels, featmap_strides, **kwargs)


class RegionScorer(nn.Module):
    """Embeds regions by a CLIP's image tower, without weights of its own; a subclass says how.

    Attributes:
        features: Of the tower that it reads, see :meth:`~vlm_dense.clip.image_tower.ImageTower.encode`.
    """

    features: tuple[str, ...] = ()

    def forward(self, tower: ImageTower, features: ImageFeatures, rois: Tensor) -> Tensor:
        """Embeddings (N, D) in the joint space, not normalised."""
        raise NotImplementedError

    def check(self, tower: ImageTower) -> None:
        """Raise a :class:`ConfigError` if it does not work with a tower."""


@MODELS.register_module()
class AttentionPoolScorer(RegionScorer):
    """Crops of the last map of a ResNet go through CLIP's own attention pool, as whole images do (F-VLM).

    A crop has the grid of the pool's stored positions, so that they need no resizing.

    Args:
        chunk: Regions pooled at a time, which bounds the memory of their crops.
    """

    features = ('patch',)

    def __init__(self, chunk: int = 512):
        super().__init__()
        self.chunk = chunk

    def check(self, tower: ImageTower) -> None:
        """As in :class:`RegionScorer`."""
        if not hasattr(tower, 'attnpool'):
            raise ConfigError(
                f'AttentionPoolScorer sends crops of the last map through the attention pool of a ResNet, which '
                f"{type(tower).__name__} has not. Use 'vlm_dense.CLIPResNet' with attnpool=True, or "
                "scorer=dict(type='vlm_dense.DenseMapScorer')."
            )

    def crops(self, tower: ImageTower, features: ImageFeatures, rois: Tensor) -> Tensor:
        """Crops (N, C, S, S) of the last map, S being the side of the pool's grid."""
        side = math.isqrt(len(tower.attnpool.positional_embedding) - 1)
        return CornerRoIAlign(side, 1 / tower.stride)(features.patch, rois)

    def forward(self, tower: ImageTower, features: ImageFeatures, rois: Tensor) -> Tensor:
        """As in :class:`RegionScorer`."""
        pooled = [
            tower.attention_pool(self.crops(tower, features, some), all_tokens=False)[:, 0]
            for some in rois.type_as(features.patch).split(self.chunk)
        ]
        return torch.cat(pooled) if pooled else rois.new_zeros(0, tower.embed_dim)


@MODELS.register_module()
class DenseMapScorer(RegionScorer):
    """The mean of CLIP's dense features in a region, each of unit length, by RoIAlign with one bin (F-ViT).

    Works with every tower; a ViT's ``dense_attention`` decides what the dense features are.
    """

    features = ('value',)

    def forward(self, tower: ImageTower, features: ImageFeatures, rois: Tensor) -> Tensor:
        """As in :class:`RegionScorer`."""
        dense = F.normalize(features.value, dim=1)
        return roi_align(dense, rois.type_as(dense), 1, 1 / tower.stride, 0, 'avg', True).flatten(1)


def fuse(
    detector: Tensor,
    clip: Tensor,
    novel: Tensor,
    alpha: float,
    beta: float,
    background: str = 'detector',
    renormalise: bool = False,
) -> Tensor:
    """Join two classifications of regions by a weighted geometric mean of their probabilities.

    Args:
        detector, clip: Logits (N, R).
        novel: (R,) bool, the rows that were not trained on; the background is last and none of them.
        alpha, beta: Weight of CLIP for trained and for novel rows.
        background: Its probability is the ``'detector'``'s alone (F-VLM), or ``'fused'`` with ``alpha`` (F-ViT).
        renormalise: Divide by the sum over all rows (F-VLM).

    Returns:
        (N, R); rows sum to 1 only if ``renormalise``.
    """
    weight = torch.where(novel, beta, alpha).to(detector)
    if background == 'detector':
        weight[-1] = 0
    logs = (1 - weight) * detector.log_softmax(dim=-1) + weight * clip.log_softmax(dim=-1)
    return logs.softmax(dim=-1) if renormalise else logs.exp()
