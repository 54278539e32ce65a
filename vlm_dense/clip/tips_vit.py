"""The image tower of TIPSv2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from vlm_dense.clip.timm_vit import CLIPTimmViT
from vlm_dense.registry import MODELS


@MODELS.register_module()
class TIPSViT(CLIPTimmViT):
    """TIPSv2's image tower: timm's trunk with the sizes and positions of the release.

    Images are resized to the next larger multiple of the patch, bicubically; positions bilinearly with antialias, and
    the register token has none. The joint space is that of the tokens behind the last norm.

    Args:
        **options: As of :class:`CLIPTimmViT`; ``remainder`` has no effect.
    """

    def _fit_patches(self, images: Tensor) -> Tensor:
        p, sides = self.patch_size, images.shape[2:]
        size = [-(-side // p) * p for side in sides]
        if list(sides) == size:
            return images
        return F.interpolate(images, size, mode='bicubic', align_corners=False)

    def _with_positions(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        trunk, grid = self.trunk, list(x.shape[1:3])
        table = resample_abs_pos_embed(trunk.pos_embed, grid, num_prefix_tokens=0, interpolation='bilinear')
        front = [token.expand(len(x), -1, -1) for token in (trunk.cls_token, trunk.reg_token)]
        return torch.cat([*front, x.flatten(1, 2) + table], dim=1), None
