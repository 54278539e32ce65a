"""F-VLM: a detector on a frozen CLIP ResNet, with each box classified a second time by CLIP's attention pool.

"F-VLM: Open-Vocabulary Object Detection upon Frozen Vision and Language Models", ICLR 2023, section 3.

CLIP's ResNet is frozen and only a detector's neck and heads are trained, on boxes of the base classes; the box head
ends in an embedding that is compared with class names. At test time the crop of CLIP's last map under a box goes
through CLIP's own attention pool. The two probabilities are multiplied with exponents that differ between base and
novel classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models.dense_heads import RPNHead
from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.detection.open_vocabulary import OpenVocabularyTwoStage
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='F-VLM',
    title='F-VLM: Open-Vocabulary Object Detection upon Frozen Vision and Language Models',
    venue='ICLR 2023',
    link='https://arxiv.org/abs/2209.15639',
    code='https://github.com/google-research/google-research/tree/master/fvlm',
    licence='Apache-2.0',
    idea="Heads of a detector on CLIP's frozen ResNet; boxes are classified by them and by CLIP's attention pool.",
    trains='FPN, RPN, box and mask heads',
    published='OV-COCO novel AP50 28.0 (RN50); OV-LVIS mask APr RN50 18.6, RN50x4 26.3, RN50x16 30.4, RN50x64 32.8',
    contract='any T; four maps, crops of the last one through the attention pool',
    notes="""
The heads are mmdet's, with F-VLM's norms, crops and boxes with a last pixel inside. The loss of the RPN is mmdet's: its
boxes are averaged over all sampled anchors, the release averages those of each level.
""",
)

NORM = dict(type='BN', eps=1e-4, momentum=0.003)
"""The release's batch norm; ``type='SyncBN'`` where there are several processes."""


@MODELS.register_module()
class FVLM(OpenVocabularyTwoStage):
    """F-VLM; for the arguments see :class:`~vlm_dense.detection.open_vocabulary.OpenVocabularyTwoStage`.

    The backbone is ``vlm_dense.CLIPResNet`` with ``attnpool=True``, and ``roi_head.scorer`` is
    ``vlm_dense.AttentionPoolScorer``; another tower of maps has no pool and takes ``vlm_dense.DenseMapScorer``.
    """

    default_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet80')
    published_colours = True


@MODELS.register_module()
class FVLMNeck(BaseModule):
    """F-VLM's feature pyramid: a norm behind each output and none inside, and a further map of stride 64.

    Args:
        in_channels: Of four maps of strides 4 to 32; the detector fills them in.
        out_channels: Of all outputs.
        norm_cfg: Of the outputs.
        init_cfg: As in mmengine. Convolutions begin as He proposed.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg or dict(type='Kaiming', layer='Conv2d', mode='fan_out', distribution='normal'))
        own = dict(norm_cfg=norm_cfg or NORM, act_cfg=None)
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, out_channels, 1, bias=False, act_cfg=None) for width in in_channels
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, **own) for _ in range(len(in_channels))
        )
        self.fpn_convs.append(ConvModule(out_channels, out_channels, 3, stride=2, **own))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w) of strides 4 to 64."""
        found = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(found) - 1, 0, -1):
            found[i - 1] = found[i - 1] + F.interpolate(found[i], size=found[i - 1].shape[2:], mode='nearest')
        plain = [conv.conv(x) for conv, x in zip(self.fpn_convs, found, strict=False)]
        plain.append(self.fpn_convs[-1].conv(pad_same(plain[-1])))  # of the map in front of its norm
        batch, _, height, width = plain[-1].shape
        if batch * height * width == 1 and self.fpn_convs[-1].norm.training:
            raise ConfigError(
                'FVLMNeck: a training batch of one image of at most 64 px leaves the norm of its coarsest map a single '
                'value a channel. Use a larger batch or larger images.'
            )
        return tuple(conv.norm(x) for conv, x in zip(self.fpn_convs, plain, strict=True))


def pad_same(x: Tensor) -> Tensor:
    """Pad (B, C, h, w) for a 3x3 convolution of stride 2 as TensorFlow does: of an odd number, less in front."""
    around = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
        around += [total // 2, total - total // 2]
    return F.pad(x, around)


@MODELS.register_module()
class FVLMRPNHead(RPNHead):
    """mmdet's ``RPNHead`` with F-VLM's convolutions: shared by the levels, each of which has norms of its own.

    Args:
        num_levels: Maps of the neck.
        norm_cfg: Of the norms.
        **kwargs: As in mmdet; ``num_convs`` is 2.
    """

    def __init__(self, in_channels: int, num_levels: int = 5, norm_cfg: dict | None = None, **kwargs):
        self.num_levels, self.norm_cfg = num_levels, norm_cfg or NORM
        super().__init__(in_channels, **{'num_convs': 2, **kwargs})

    def _init_layers(self) -> None:
        super()._init_layers()
        widths = [self.in_channels] + [self.feat_channels] * self.num_convs
        self.rpn_conv = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.rpn_norms = nn.ModuleList(
            nn.ModuleList(build_norm_layer(self.norm_cfg, self.feat_channels)[1] for _ in range(self.num_convs))
            for _ in range(self.num_levels)
        )

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Scores and boxes of each level, as in mmdet."""
        scores, boxes = [], []
        for maps, norms in zip(x, self.rpn_norms, strict=True):
            for conv, norm in zip(self.rpn_conv, norms, strict=True):
                maps = torch.relu(norm(conv(maps)))
            scores.append(self.rpn_cls(maps))
            boxes.append(self.rpn_reg(maps))
        return scores, boxes
