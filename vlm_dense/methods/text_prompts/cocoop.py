"""CoCoOp: context that depends on the image.

A context that is fixed after training, as CoOp's, fits the classes it has seen. CoCoOp adds to each context vector a
shift that a two-layer network computes from the image feature, so every image has prompts of its own. Accuracy on new
classes falls less; the price is a pass of the text tower for every image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CoCoOp',
    title='Conditional Prompt Learning for Vision-Language Models',
    venue='CVPR 2022',
    link='https://arxiv.org/abs/2203.05557',
    code='https://github.com/KaiyangZhou/CoOp',
    licence='MIT',
    idea="Context vectors that a small network shifts by each image's feature.",
    trains='context vectors and a network that shifts them by the image',
    published='11 sets, ViT-B/16, 16 shots: base 80.5, new 71.7, mean 75.8',
    contract='(B, K, D); CE',
)


@MODELS.register_module()
class CoCoOpPrompt(LearnedContext):
    """``[SOS] v_1 + h(z) .. v_M + h(z) name . [EOT]``, z the image's unit feature, h a small network (section 3.2).

    Each image has its own prompts. [SOS] and the vectors of an image go through the tower once for all classes.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        words, num_contexts, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        reduction: Hidden channels of h are those of z divided by this.
        unit_features: ``False``: z as the tower gives it. TPT's published row with CoCoOp was made so.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.
    """

    image_conditioned = True

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        words: str | None = 'a photo of a',
        num_contexts: int | None = None,
        std: float = 0.02,
        reduction: int = 16,
        unit_features: bool = True,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, num_contexts, words, std=std, init_cfg=init_cfg)
        self.unit_features = unit_features
        channels = text_tower.embed_dim
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(channels, channels // reduction),
                relu=nn.ReLU(inplace=True),
                linear2=nn.Linear(channels // reduction, text_tower.width),
            )
        )
        self.load_pretrained(pretrained)

    def context(self, image_features: Tensor | None = None) -> Tensor:
        """(B, M, d) vectors for global image features (B, D)."""
        shift = self.meta_net(F.normalize(image_features, dim=-1) if self.unit_features else image_features)
        return self.ctx + shift[:, None]
