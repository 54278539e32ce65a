"""CLIP-Adapter: a bottleneck behind each tower, mixed with what went in.

A bottleneck of two linear layers transforms CLIP's image feature. Its output is mixed with the original feature at a
fixed ratio, which keeps most of CLIP's knowledge. The class embeddings stay those of hand-written prompts; the paper
also describes the same block on the text side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.release import load_release
from vlm_dense.contract.roles import CosineHead
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CLIP-Adapter',
    title='CLIP-Adapter: Better Vision-Language Models with Feature Adapters',
    venue='IJCV 2024',
    link='https://arxiv.org/abs/2110.04544',
    code='https://github.com/gaopengcuhk/CLIP-Adapter',
    licence='none',
    idea='A bottleneck behind the frozen image tower, mixed with what went in by a ratio.',
    trains='a bottleneck behind the image tower',
    published='ImageNet, RN50: 61.2, 61.5, 61.8, 62.7, 63.6 with 1, 2, 4, 8, 16 shots',
    contract='text of zero_shot; mixed feature; CE',
)


class Bottleneck(BaseModule):
    """``ratio * relu(W2 relu(W1 x)) + (1 - ratio) * x``, without biases (section 3.2).

    Args:
        dim: D, channels of x.
        ratio: How much of the output is new.
        reduction: W1 is (D / reduction, D), W2 its reverse.
        last_relu: The official code has a relu after W2, the paper's equations have none.
        pretrained: Checkpoint of the official release.

    Raises:
        ConfigError: a ratio outside of 0 to 1, or a reduction that leaves no channel.
        CheckpointError: the file is for another tower or reduction.
    """

    key_map = {r'^adapter\.': ''}

    def __init__(
        self, dim: int, ratio: float = 0.2, reduction: int = 4, last_relu: bool = True, pretrained: str | None = None
    ):
        super().__init__()
        if not 0 <= ratio <= 1 or not 1 <= reduction <= dim:
            raise ConfigError(
                f'CLIP-Adapter: ratio must lie between 0 and 1 and reduction between 1 and the {dim} channels of the '
                f'tower, found {ratio} and {reduction}.'
            )
        self.ratio = ratio
        layers = [nn.Linear(dim, dim // reduction, bias=False), nn.ReLU(), nn.Linear(dim // reduction, dim, bias=False)]
        self.fc = nn.Sequential(*layers, *([nn.ReLU()] if last_relu else []))
        load_release(self, pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.ratio * self.fc(x) + (1 - self.ratio) * x

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        hidden, dim = self.fc[0].weight.shape
        return f'This adapter narrows the {dim} channels of its tower to {hidden}.'


@MODELS.register_module()
class CLIPAdapter(Bottleneck, CosineHead):
    """The visual branch: scaled cosine of the text and the adapted image feature (section 3.2).

    The feature is normalised after the mixture only, as in the official code.

    Args:
        image_tower: The classifier's; gives D.
        **kwargs: ``ratio``, ``reduction``, ``last_relu``, ``pretrained``, see :class:`Bottleneck`.
    """

    def __init__(self, image_tower: ImageTower, **kwargs: Any):
        super().__init__(image_tower.embed_dim, **kwargs)

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K)."""
        return super().logits(ImageFeatures(global_=self(features.global_)), text, logit_scale)


@MODELS.register_module()
class CLIPTextAdapter(ZeroShotPrompt):
    """The paper's textual branch: the class embedding of a hand-written prompt, adapted; off in the paper's main runs.

    The mean of the embeddings of the templates, none of them normalised, goes through the bottleneck (section 3.2).

    Args:
        class_names, text_tower, templates: See :class:`ZeroShotPrompt`. ``_`` in names becomes a space.
        **kwargs: ``ratio``, ``reduction``, ``last_relu``, ``pretrained``, see :class:`Bottleneck`.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        templates: str | Sequence[str] = ('a photo of a {}.',),
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(class_names, text_tower, templates, separators='_', init_cfg=init_cfg)
        self.adapter = Bottleneck(text_tower.embed_dim, **kwargs)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D), not normalised."""
        embeddings = self.sentences(text_tower).mean(dim=1)
        return self.adapter(embeddings if classes is None else embeddings[classes])
