"""Pixel-text matching in a module that gets maps only: a head or a neck of a model that is not of this package.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3.1, equation (1).
"""

from __future__ import annotations

from torch import Tensor, nn

from vlm_dense.contract.text_side import TextSide
from vlm_dense.errors import ConfigError


class PixelText:
    """Mixin of a module that projects a map to the joint space and compares its positions with class embeddings.

    Attributes:
        class_names: In label order.
        text_encoder, text_prompt: See :class:`~vlm_dense.contract.text_side.TextSide`.
        projection: The 1 x 1 convolution, or nothing.
    """

    def build_text(
        self,
        class_names: list[str],
        text_encoder: dict | None,
        text_prompt: dict | None,
        channels: int | list[int],
        project: bool = True,
    ) -> None:
        """Called by the constructor of the module.

        Args:
            class_names: Names in label order, which the module has checked.
            text_encoder: ``vlm_dense.TextTower``.
            text_prompt: Any text prompt that does not read the image. Default: ``vlm_dense.ZeroShotPrompt``.
            channels: Of the map.
            project: Map them to the D of the joint space; without it there must be D.

        Raises:
            ConfigError: no text encoder, several maps, or one that is not in the joint space; a prompt that reads or
                changes the image.
        """
        owner = type(self).__name__
        if text_encoder is None:
            raise ConfigError(
                f"{owner} needs text_encoder=dict(type='vlm_dense.TextTower', arch=..., pretrained=...), found none."
            )
        self._prompt_cfg = text_prompt or dict(type='vlm_dense.ZeroShotPrompt')
        built = TextSide.build(text_encoder, self._prompt_cfg, class_names)
        if built.prompter is not None or built.text_prompt.image_conditioned:
            raise ConfigError(
                f'{owner}: {type(built.text_prompt).__name__} reads or changes the image, of which only features come '
                'here. Use a text prompt that does neither, or a model that builds both towers: vlm_dense.DenseCLIP.'
            )
        self.text_encoder, self.text_prompt, _ = built.modules
        self.class_names, dim = class_names, self.text_encoder.embed_dim
        if not isinstance(channels, int) or not project and channels != dim:
            raise ConfigError(
                f'{owner} takes one map, without project of {dim} channels, found {channels}. Use '
                "input_transform='resize_concat' of a head, or project=True."
            )
        self.projection = nn.Conv2d(channels, dim, 1) if project else nn.Identity()

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompt."""
        return TextSide(self.text_encoder, self.text_prompt)

    def compare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines (B, K, h, w), float32, of a map (B, C, h, w), and the class embeddings as the prompt gave them."""
        side = self.text_side
        text = side.class_embeddings()
        return side.combine(side.scores(self.projection(x), text)), text
