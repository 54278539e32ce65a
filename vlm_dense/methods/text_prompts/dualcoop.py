"""DualCoOp: a positive and a negative learned prompt of each class, for images that show several.

To recognise several labels of an image, DualCoOp learns two prompts for each class, one that says the class is
present and one that says it is absent. CLIP's attention pool is replaced by a projection of each position, and each
class pools the positions by the softmax of its positive similarity, so that small objects count. Unknown labels are
left out of an asymmetric loss, which makes partial annotation enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.contract.release import load_release
from vlm_dense.contract.roles import Head, Loss, Step
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='DualCoOp',
    title='DualCoOp: Fast Adaptation to Multi-Label Recognition with Limited Annotations',
    venue='NeurIPS 2022',
    link='https://arxiv.org/abs/2206.09541',
    code='https://github.com/sunxm2357/DualCoOp',
    licence='none',
    idea='A positive and a negative prompt a class, compared with regions, for images with several labels.',
    trains='a positive and a negative context',
    contract='multi-label; sub-lists; V = 2; asymmetric',
)


@MODELS.register_module()
class DualCoOpPrompt(TextPrompt, Head):
    """Two prompts, each as in CoOp with the name at the end, and regions pooled class by class (section 3).

    Similarities of region i are ``a = spatial_scale * cos(region, prompt)``; the weights of the regions are the
    softmax over i of the positive prompt's a, and the score of each prompt is ``class_scale * sum_i weight_i a_i``.
    The regions are the mean of the map and all its positions, as in the official code; the paper has positions only.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        num_contexts: M of the positive and of the negative prompt.
        words: Initial words of both; then ``num_contexts`` is that of the words, unless it is given.
        class_specific: Each class has vectors of its own; not for classes that are unseen in training.
        spatial_scale, class_scale: 20 and 5, instead of CLIP's temperature of 100.
        pretrained: Checkpoint of the official release; trained weights of its image encoder are not read.
        std: See :class:`LearnedContext`.

    Attributes:
        negative, positive: The prompts; ``ctx_neg`` and ``ctx_pos`` of the release.
    """

    num_variants = 2
    features = ('regions',)
    key_map = {r'^ctx_neg$': 'negative.ctx', r'^ctx_pos$': 'positive.ctx'}
    ignored_prefixes = ('token_prefix', 'token_suffix', 'tokenized_prompts')

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_contexts: int | Sequence[int] | None = None,
        words: Sequence[str] | None = None,
        class_specific: bool = True,
        spatial_scale: float = 20.0,
        class_scale: float = 5.0,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        self.spatial_scale, self.class_scale = spatial_scale, class_scale
        counts = num_contexts if isinstance(num_contexts, Sequence) else (num_contexts, num_contexts)
        if len(counts) != 2 or words is not None and (isinstance(words, str) or len(words) != 2):
            raise ConfigError(
                'DualCoOpPrompt: num_contexts is a number or that of the positive and of the negative prompt, words '
                f'are two texts; found {num_contexts} and {words!r}.'
            )
        self.positive, self.negative = (
            CoOpPrompt(class_names, text_tower, num_contexts=m, words=w, class_specific=class_specific, std=std)
            for m, w in zip(counts, words or (None, None), strict=True)
        )
        load_release(self, pretrained)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (2, K, D), those of the negative prompts first."""
        return torch.stack([prompt(text_tower, classes=classes) for prompt in (self.negative, self.positive)])

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """Scores of the negative and the positive prompt, (B, 2, K)."""
        regions = F.normalize(features.regions, dim=-1)
        similarity = self.spatial_scale * torch.einsum('bid,vkd->bvki', regions, text[0])
        weights = similarity[:, 1:].softmax(dim=-1)
        return self.class_scale * (weights * similarity).sum(dim=-1)

    def reduce_variants(self, logits: Tensor) -> Tensor:
        """Logit of the positive class, (B, K, ...): its sigmoid is the softmax of both scores."""
        return logits[:, 1] - logits[:, 0]

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        return f'Of the two prompts of this DualCoOpPrompt, the positive is so: {self.positive.describe_shapes()}'


@MODELS.register_module()
class AsymmetricLoss(Loss):
    """Asymmetric loss of labels that are known, summed over images and classes (section 3.3).

    With p the probability of a class, and ``q = min(1 - p + clip, 1)`` for negative ones::

        positive  -(1 - p)^gamma_pos log max(p, eps)
        negative  -(1 - q)^gamma_neg log max(q, eps)

    The factor in front gets no gradient. Labels that are unknown (-1) count nowhere.

    Args:
        weight: Factor of the loss.
        gamma_pos, gamma_neg, clip, eps: See above.
        num_classes: Number of classes in a step, drawn again each time; default all. For label sets of thousands.

    Raises:
        ConfigError: ``num_classes`` below 1.
    """

    def __init__(
        self,
        weight: float = 0.03,
        gamma_pos: float = 1.0,
        gamma_neg: float = 2.0,
        clip: float = 0.05,
        eps: float = 1e-6,
        num_classes: int | None = None,
    ):
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ConfigError(f'AsymmetricLoss: num_classes must be at least 1, found {num_classes}.')
        self.weight, self.num_classes = weight, num_classes
        self.terms = AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip, eps, True, reduction='sum')

    def classes(self, data_samples: list) -> Tensor | None:
        """The classes of this step, or ``None``."""
        if self.num_classes is None or not data_samples or 'gt_labels' not in data_samples[0]:
            return None
        labels = data_samples[0].gt_labels
        if self.num_classes >= len(labels):
            return None
        return torch.randperm(len(labels))[: self.num_classes].to(labels.device)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_asymmetric``."""
        labels = step.multi_hot_labels()
        known = labels >= 0
        return dict(loss_asymmetric=self.weight * self.terms(step.logits[known], labels[known]))
