"""LSeg's classifier of pixels, as a head for any segmentor of mmseg.

"Language-driven Semantic Segmentation", ICLR 2022, section 3; as an auxiliary head without projection it is the
pixel-text loss of "DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.contract.pixel_text import PixelText
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.strips import loss_by_strips
from vlm_dense.vocabulary.class_names import one_name_each


@MODELS.register_module()
class PixelTextHead(PixelText, BaseDecodeHead):
    """Projects a map to CLIP's joint space and compares it with the class embeddings, on any backbone and neck.

    As ``decode_head`` it is LSeg's classifier; as ``auxiliary_head`` it adds a loss that pulls pixels to the names of
    their classes. The loss is taken by strips, see :func:`~vlm_dense.segmentation.strips.loss_by_strips`.

    Args:
        in_channels, in_index, input_transform: The maps, as in mmseg; ``'resize_concat'`` joins several of them.
        class_names: In label order; or the type of a data set, a file or a list of the package, see
            :func:`~vlm_dense.vocabulary.class_names.read_class_names`.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract that does not read the image. Default:
            ``vlm_dense.ZeroShotPrompt``.
        project: Map the channels to the D of the joint space by a 1 x 1 convolution; without it there must be D.
        tau: Temperature of the cosines. LSeg and DenseCLIP have 0.07.
        learn_tau: Learn its logarithm, and let it fall to 0.01, as CLIP does.
        num_classes: K; may be left out.
        dropout_ratio: Of the channels of the map.
        **kwargs: ``loss_decode``, ``ignore_index``, ``align_corners``, ``sampler``, ``init_cfg`` as in mmseg.

    Attributes:
        logit_scale: Scalar, log(1 / tau), if it is learned.

    Raises:
        ClassNamesError: no names, names that cannot be used, or another number of them than ``num_classes``.
        ConfigError: maps that are not of one size or, without ``project``, not in the joint space; a prompt that reads
            or changes the image, which a head does not see.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        class_names: str | Sequence[str] | None = None,
        text_encoder: dict | None = None,
        text_prompt: dict | None = None,
        project: bool = True,
        tau: float = 0.07,
        learn_tau: bool = False,
        num_classes: int | None = None,
        dropout_ratio: float = 0.0,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        names = one_name_each(class_names, num_classes)
        if tau <= 0:
            raise ConfigError(f'PixelTextHead: the temperature tau must be above 0, found {tau}.')
        super().__init__(
            in_channels,
            1,
            num_classes=len(names),
            out_channels=len(names),
            dropout_ratio=dropout_ratio,
            init_cfg=init_cfg,
            **kwargs,
        )
        del self.conv_seg
        self.build_text(names, text_encoder, text_prompt, self.in_channels, project)
        self.channels = self.text_encoder.embed_dim
        self.tau = tau
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / tau))) if learn_tau else None

    def set_class_names(self, class_names: str | Sequence[str]) -> None:
        """Replace the classes; learned prompts are kept.

        In a segmentor use :func:`~vlm_dense.segmentation.naming.set_class_names`, which also tells it their number.

        Raises:
            ClassNamesError: names that cannot be used, or a prompt that has learned something for each class.
        """
        names = one_name_each(class_names)
        if names != self.class_names:
            prompt = self.text_side.prompt_for(self._prompt_cfg, names)
            self.text_prompt, self.class_names = prompt.train(self.training), names
        self.num_classes = self.out_channels = len(names)

    def _logits(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K, h, w), float32, and the class embeddings as the prompt gave them."""
        x = self._transform_inputs(inputs)
        scores, text = self.compare(x if self.dropout is None else self.dropout(x))
        if self.logit_scale is None:
            return scores / self.tau, text
        return scores * self.logit_scale.exp().clamp(max=100), text

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, h, w), float32, of the maps (B, C, h, w) of the backbone or neck."""
        return self._logits(inputs)[0]

    def loss(self, inputs: Sequence[Tensor], batch_data_samples: list, train_cfg: dict) -> dict[str, Tensor]:
        """Losses of the logits, ``acc_seg``, and ``prompt.*``, the prompt's own."""
        logits, text = self._logits(inputs)
        losses = self.loss_by_feat(logits, batch_data_samples)
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """As in mmseg, by strips where that is exact."""
        return loss_by_strips(self, seg_logits, batch_data_samples)
