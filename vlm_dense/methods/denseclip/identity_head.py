"""Decode heads for mmseg."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from vlm_dense.registry import MODELS


@MODELS.register_module()
class IdentityHead(BaseDecodeHead):
    """Supervises a map that already has one channel a class; has no weights.

    DenseCLIP's auxiliary pixel-text matching loss, section 3.3, equation (6).
    """

    def __init__(self, num_classes: int, **kwargs: Any):
        super().__init__(
            in_channels=num_classes,
            channels=num_classes,
            num_classes=num_classes,
            dropout_ratio=0,
            init_cfg=None,
            **kwargs,
        )
        del self.conv_seg

    def forward(self, inputs: Tensor) -> Tensor:
        """The map (B, K, h, w) itself."""
        return inputs
