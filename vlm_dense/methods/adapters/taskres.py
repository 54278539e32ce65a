"""TaskRes: a learned matrix added to the class embeddings.

TaskRes freezes the zero-shot classifier and learns an addition to each class embedding, scaled by a constant. The
text tower does not run during training, and CLIP's knowledge cannot be overwritten. An enhanced base fine-tunes the
last projection of the text tower first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_dense.clip.loading import read_state_dict
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.release import load_release
from vlm_dense.errors import CheckpointError
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='TaskRes',
    title='Task Residual for Tuning Vision-Language Models',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2211.10277',
    code='https://github.com/geekyutao/TaskRes',
    licence='MIT',
    idea='A learned addition to the class embeddings.',
    trains='an addition to the class embeddings',
    published='ImageNet, RN50, 16 shots: 64.8',
    contract='templates; features before the last projection for the enhanced base; (K, D): base + alpha * x; CE',
)


@MODELS.register_module()
class TaskRes(ZeroShotPrompt):
    """``t_k + scale * x_k``: t_k hand-written and frozen, x_k learned from zero (section 3.3).

    t_k is the mean of the embeddings of the templates. The paper writes it as if it were normalised; the official code
    does not, and ``scale`` and rates belong to that.

    The enhanced base is t_k from a text tower with the last projection tuned before (section 3.3, TaskRes*).

    Args:
        class_names, text_tower, templates: See :class:`ZeroShotPrompt`. Names are used verbatim, ``_`` as well.
        scale: alpha of the paper; 1 on Flowers, 0.5 elsewhere.
        enhanced: File of a released enhanced base, with one matrix ``weight`` (D, width).
        pretrained: Checkpoint of the official release. A base in it replaces that of the templates.

    Raises:
        CheckpointError: a file for other classes or another tower; names both shapes.
    """

    key_map = {r'^.*?(text_feature_residuals|base_text_features)$': r'\1'}

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        templates: str | Sequence[str] = ('a photo of a {}.',),
        scale: float = 0.5,
        enhanced: str | None = None,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, templates, init_cfg=init_cfg)
        self.scale = scale
        self.text_feature_residuals = nn.Parameter(torch.zeros(len(self.class_names), text_tower.embed_dim))
        projection = None if enhanced is None else self._read_projection(enhanced, text_tower)
        self.register_buffer('projection', projection, persistent=False)
        self.register_buffer('base_text_features', None)
        if pretrained is not None:
            self.base_text_features = self.base(text_tower).detach().clone()
            load_release(self, pretrained)

    def convert_release(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the release; the base from the templates where a file holds the residual alone."""
        own = {} if self.base_text_features is None else dict(base_text_features=self.base_text_features)
        return own | weights

    @staticmethod
    def _read_projection(path: str, text_tower: TextTower) -> Tensor:
        weights = read_state_dict(path)
        wanted, found = (text_tower.embed_dim, text_tower.width), {k: tuple(v.shape) for k, v in weights.items()}
        if found != dict(weight=wanted):
            raise CheckpointError(
                f'{path} is no enhanced base for this text tower: expected one matrix weight {wanted}, found {found}. '
                'Take the file that was made with this tower.'
            )
        return weights['weight'].float()

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D), not normalised."""
        embeddings = self.base(text_tower) + self.scale * self.text_feature_residuals
        return embeddings if classes is None else embeddings[classes]

    def base(self, text_tower: TextTower) -> Tensor:
        """t, (K, D); a frozen tower computes it once."""
        if self.base_text_features is not None:
            return self.base_text_features
        if self.projection is None:
            return self.sentences(text_tower).mean(dim=1)
        return self.sentences(text_tower, project=False).mean(dim=1) @ self.projection.T

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        shape = tuple(self.text_feature_residuals.shape)
        return f'This TaskRes has {shape[0]} classes and the {shape[1]} channels of its text tower.'
