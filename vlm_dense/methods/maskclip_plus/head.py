"""MaskCLIP+'s decode head: its classifier is the matrix of class embeddings.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS


@MODELS.register_module()
class MaskCLIPPlusHead(BaseDecodeHead):
    """A decode head of mmseg with the matrix of class embeddings as classifier: no weights, bias or temperature.

    Args:
        decode_module: Any decode head of mmseg that ends in ``cls_seg``, as ``vlm_dense.ASPPHeadV2`` (DeepLabV2) or
            ``DepthwiseSeparableASPPHead`` (DeepLabV3+). Its classifier is taken off; it gives features F.
        channels: D, dimension of the joint space; :class:`MaskCLIPPlus` fills it in.
        num_classes: K, the background included; :class:`MaskCLIPPlus` fills it in.
        norm_feat: Normalise F over channels.
        cls_bg: Class 0 is a background without name; its unit embedding is learned.
        **kwargs: ``loss_decode``, ``ignore_index``, ``align_corners``, ``sampler`` as in mmseg.

    Raises:
        ConfigError: a decode module without classifier, or of another number of channels.
    """

    def __init__(
        self,
        decode_module: dict,
        channels: int,
        num_classes: int,
        norm_feat: bool = False,
        cls_bg: bool = False,
        **kwargs: Any,
    ):
        super().__init__(1, channels, num_classes=num_classes, dropout_ratio=0, init_cfg=None, **kwargs)
        del self.conv_seg
        own = dict(
            channels=channels,
            num_classes=num_classes,
            dropout_ratio=0,
            align_corners=self.align_corners,
            init_cfg=None,
        )
        self.decode_module = MODELS.build({**own, **decode_module})
        if not isinstance(getattr(self.decode_module, 'conv_seg', None), nn.Conv2d):
            raise ConfigError(
                f'MaskCLIPPlusHead: {type(self.decode_module).__name__} has no classifier conv_seg that the class '
                'embeddings could replace. Use a decode head of mmseg that ends in cls_seg.'
            )
        if self.decode_module.channels != channels:
            raise ConfigError(
                f'MaskCLIPPlusHead: decode_module.channels={self.decode_module.channels}, but the class embeddings '
                f'have {channels} dimensions. Leave decode_module.channels out.'
            )
        self.decode_module.conv_seg = nn.Identity()
        self.norm_feat = norm_feat
        self.cls_bg = cls_bg
        if cls_bg:
            self.bg_embeddings = nn.Parameter(torch.randn(1, channels))
        self.register_buffer('text_embeddings', None, persistent=False)
        self._register_load_state_dict_pre_hook(self._leave_out_text)

    @staticmethod
    def _leave_out_text(state_dict: dict, prefix: str, *args) -> None:
        """Leave out what the release saves and what follows from class names here."""
        state_dict.pop(prefix + 'text_embeddings', None)

    def set_text(self, embeddings: Tensor) -> None:
        """Take unit class embeddings (K, D), one row a class with a name."""
        self.text_embeddings = embeddings

    def class_embeddings(self) -> Tensor:
        """Unit embeddings (K, D), the background in front.

        Raises:
            ConfigError: nobody gave the embeddings of the names.
        """
        if self.text_embeddings is None:
            raise ConfigError(
                "MaskCLIPPlusHead has no class embeddings. Use it in type='vlm_dense.MaskCLIPPlus', where the "
                'teacher gives them.'
            )
        if not self.cls_bg:
            return self.text_embeddings
        return torch.cat([F.normalize(self.bg_embeddings, dim=1), self.text_embeddings])

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K, h, w) of features F (B, D, h, w)."""
        if self.norm_feat:
            features = F.normalize(features, dim=1)
        return torch.einsum('bdhw,kd->bkhw', features, self.class_embeddings().to(features.dtype))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w) of the maps of the backbone or neck."""
        return self.classify(self.decode_module(inputs))
