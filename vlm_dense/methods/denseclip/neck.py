"""DenseCLIP's text guidance as a neck, for any backbone, detector and segmentor.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor

from vlm_dense.contract.pixel_text import PixelText
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import one_name_each


@MODELS.register_module()
class TextGuidedNeck(PixelText, BaseModule):
    """Joins a map of cosines of pixels and class names to one of the stages, in front of another neck.

    The detector's or segmentor's class stays as it is, and so there is neither a context decoder, which reads CLIP's
    global feature, nor a loss on the map: the projection learns from the losses of the heads. For these see
    ``vlm_dense.DenseCLIP`` and its detectors.

    Args:
        neck: Config of the other neck; its ``in_channels`` are filled in.
        in_channels: Of the stages.
        class_names: In label order; or the type of a data set, a file or a list of the package.
        text_encoder: ``vlm_dense.TextTower``.
        text_prompt: Any text prompt of the contract that does not read the image and has no losses of its own. Default:
            ``vlm_dense.ZeroShotPrompt``.
        index: The stage.
        project: Map its channels to the joint space by a 1 x 1 convolution; without it there must be as many.
        tau: Temperature by which the cosines are divided; 1 for DenseCLIP's segmentors, 0.07 for its detectors.

    Raises:
        ClassNamesError: no names, or names that cannot be used.
        ConfigError: no such stage; see also :class:`~vlm_dense.contract.pixel_text.PixelText`.
    """

    def __init__(
        self,
        neck: dict,
        in_channels: Sequence[int],
        class_names: str | Sequence[str] | None = None,
        text_encoder: dict | None = None,
        text_prompt: dict | None = None,
        index: int = -1,
        project: bool = True,
        tau: float = 0.07,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        names, channels = one_name_each(class_names), list(in_channels)
        if not -len(channels) <= index < len(channels) or tau <= 0:
            raise ConfigError(
                f'TextGuidedNeck: index must be one of the {len(channels)} stages and tau above 0, found {index} and '
                f'{tau}.'
            )
        self.build_text(names, text_encoder, text_prompt, channels[index], project)
        if type(self.text_prompt).losses is not TextPrompt.losses:
            raise ConfigError(
                f'TextGuidedNeck: {type(self.text_prompt).__name__} has losses of its own, which a neck cannot add to '
                'those of the heads. Use another text prompt, or vlm_dense.DenseCLIP.'
            )
        self.index, self.tau = index, tau
        channels[index] += len(names)
        self.neck = MODELS.build(dict(neck, in_channels=channels))

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs of the other neck for the stages (B, C_i, h_i, w_i), one of which has K more channels."""
        stages = list(stages)
        stage = stages[self.index]
        score = self.compare(stage)[0] / self.tau
        stages[self.index] = torch.cat([stage, score.to(stage.dtype)], dim=1)
        return self.neck(tuple(stages))
