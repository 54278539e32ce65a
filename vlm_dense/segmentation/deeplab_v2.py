"""DeepLabV2's head, which mmseg lacks.

"DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs",
TPAMI 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from vlm_dense.registry import MODELS


@MODELS.register_module()
class ASPPHeadV2(BaseDecodeHead):
    """The sum of parallel dilated convolutions, then a classifier.

    Args:
        dilations: One branch each: a 3 x 3 convolution of this dilation, 1 x 1 for dilation 1, with ``norm_cfg`` and
            ``act_cfg``.
        **kwargs: As in mmseg.
    """

    def __init__(self, dilations: Sequence[int] = (6, 12, 18, 24), **kwargs: Any):
        super().__init__(**kwargs)
        self.aspp_modules = ASPPModule(
            dilations, self.in_channels, self.channels, self.conv_cfg, self.norm_cfg, self.act_cfg
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w)."""
        first, *others = self.aspp_modules(self._transform_inputs(inputs))
        return self.cls_seg(sum(others, first))
