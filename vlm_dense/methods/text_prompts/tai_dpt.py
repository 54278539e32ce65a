"""TaI-DPT: captions instead of images, with a prompt for the whole and one for its parts.

CLIP's space is shared by images and texts, so captions can stand in for images in training, labelled by the nouns
that they contain. One prompt set is compared with the whole caption and one with each of its tokens. At test time
images replace captions, and their positions replace tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.contract.release import load_release
from vlm_dense.contract.roles import Head, Loss, Step
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='TaI-DPT',
    title='Texts as Images in Prompt Tuning for Multi-Label Image Recognition',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2211.12739',
    code='https://github.com/guozix/TaI-DPT',
    licence='MIT',
    idea=(
        'Captions stand in for images in training: the classes that a caption names are its labels. One prompt is '
        'compared with the whole caption or image, another with each token or position, and a ranking loss trains '
        'both. No image is trained on.'
    ),
    trains='a context for the whole and one for the parts, on captions',
    published='mAP, RN50: VOC 2007 88.3, MS-COCO 65.1, NUS-WIDE 46.5',
    contract='captions as data; V = 2 (global, local); ranking',
    notes="""
`vlm_dense.CaptionDataset` finds the classes by their names and a list of synonyms (`vlm_dense/data/synonyms`,
hand-written for this project, or a JSON file of your own), plurals included; captions without class are left out and
counted. The official code brings words to their base form by WordNet and its own synonyms, so its labels differ a
little. Captions come from COCO's annotation files, from `.jsonl` files with a `caption` in each line (Localized
Narratives), from `.txt` files or from drawn scenes.

Published mAP, RN50, zero-shot CLIP / TaI-DPT: VOC 2007 77.3 / 88.3, MS-COCO 49.7 / 65.1, NUS-WIDE 37.4 / 46.5. The
official code keeps the best weights by test images, which is not done here.
""",
)


_PADDED = -1e4  # similarity of what lies behind a caption


@MODELS.register_module()
class TaIDPTPrompt(TextPrompt, Head):
    """A global and a local prompt, each as in CoOp with the name at the end (section 3.3); images are not prompted.

    - global score: ``class_scale * cos(whole, global prompt)``
    - local score: ``class_scale * sum_j w_j a_j`` with ``a_j = cos(part j, local prompt)`` and w the softmax over j of
      ``spatial_scale * a``

    In training, whole and parts are the end and all tokens of a caption. In a test they are the image's feature, pooled
    without positions, and the positions of its map through the value path. The logit of a class is the mean of both.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        num_contexts, class_specific, std: Of both prompts, see :class:`LearnedContext`.
        class_scale: 4, instead of CLIP's temperature of 100.
        spatial_scales: For captions and for images; the paper takes 40 for images of VOC and COCO, 4 for NUS-WIDE.
        learn_scale: Learn the logarithm of ``class_scale`` and begin with 3, as an option of the official code does.
        learn_spatial_scale: The same for one scale instead of both ``spatial_scales``.
        pretrained: Checkpoint of the official release.

    Attributes:
        whole, parts: The prompts; ``ctx`` and ``ctx_double`` of the release.
    """

    num_variants = 2
    features = ('pooled', 'value')
    key_map = {r'^ctx$': 'whole.ctx', r'^ctx_double$': 'parts.ctx'}
    ignored_prefixes = ('token_prefix', 'token_suffix', 'ranking_scale')

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_contexts: int = 16,
        class_specific: bool = False,
        std: float = 0.02,
        class_scale: float = 4.0,
        spatial_scales: Sequence[float] = (50.0, 40.0),
        learn_scale: bool = False,
        learn_spatial_scale: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        if len(spatial_scales) != 2:
            raise ConfigError(f'TaIDPTPrompt: spatial_scales are for captions and for images, found {spatial_scales}.')
        own = dict(num_contexts=num_contexts, class_specific=class_specific, std=std)
        self.whole, self.parts = (CoOpPrompt(class_names, text_tower, **own) for _ in range(2))
        self.class_scale, self.spatial_scales = class_scale, tuple(spatial_scales)
        self.temperature = nn.Parameter(torch.tensor(3.0)) if learn_scale else None
        self.spatial_T = nn.Parameter(torch.tensor(3.0)) if learn_spatial_scale else None
        load_release(self, pretrained)

    def convert_release(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scales that are not learned are in the release too."""
        return {
            name: value
            for name, value in weights.items()
            if name not in ('temperature', 'spatial_T') or getattr(self, name) is not None
        }

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (2, K, D), those of the global prompt first."""
        return torch.stack([prompt(text_tower, classes=classes) for prompt in (self.whole, self.parts)])

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """Global and local scores, (B, 2, K)."""
        scale = self.class_scale if self.temperature is None else self.temperature.exp()
        caption = features.tokens is not None
        whole = F.normalize(features.global_ if caption else features.pooled, dim=-1)
        similarity = self.similarity(features, text[0, 1])
        spatial = self.spatial_scales[0 if caption else 1] if self.spatial_T is None else self.spatial_T.exp()
        weights = (spatial * similarity).softmax(dim=1)
        return scale * torch.stack([whole @ text[0, 0].T, (weights * similarity).sum(dim=1)], dim=1)

    def similarity(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Cosines of all parts with text (K, D), (B, M, K)."""
        caption = features.tokens is not None
        parts = features.tokens if caption else features.value.flatten(2).transpose(1, 2)
        cosines = F.normalize(parts, dim=-1) @ text.T
        return cosines.masked_fill(features.padding[..., None], _PADDED) if caption else cosines

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        return f'Both prompts of this TaIDPTPrompt are so: {self.whole.describe_shapes()}'


class GrainLoss(Loss):
    """Base of losses of several labels an image that the global and the local scores have each on its own."""

    grains = ('global', 'local')

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_global`` and ``loss_local``.

        Raises:
            ConfigError: logits that have not these two.
        """
        if step.variants is None or step.variants.shape[1] != len(self.grains):
            raise ConfigError(
                f'{type(self).__name__}: expected global and local scores, as vlm_dense.TaIDPTPrompt gives them. Take '
                'that text prompt and no head.'
            )
        labels = step.multi_hot_labels()
        scores = step.variants.unbind(dim=1)
        return {f'loss_{grain}': self.of(s, labels) for grain, s in zip(self.grains, scores, strict=True)}

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Loss of scores (B, K) and labels (B, K) of 1, 0 and -1 for unknown, which count nowhere."""
        raise NotImplementedError


@MODELS.register_module()
class RankingLoss(GrainLoss):
    """Sum over pairs of a shown class i and another j of ``max(0, margin - s_i + s_j)``, mean over images (Eq. 6).

    Args:
        margin: See above.
    """

    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        pairs = (labels == 1)[:, :, None] & (labels == 0)[:, None, :]
        losses = (self.margin - scores[:, :, None] + scores[:, None, :]).clamp(min=0)
        return (losses * pairs).sum() / len(scores)


@MODELS.register_module()
class GrainAsymmetricLoss(GrainLoss):
    """Asymmetric loss of both scores instead of the ranking, mean over known labels; see ``AsymmetricLoss``.

    Args:
        gamma_pos, gamma_neg, clip, eps: See :class:`AsymmetricLoss`.
    """

    def __init__(self, gamma_pos: float = 1.0, gamma_neg: float = 2.0, clip: float = 0.05, eps: float = 1e-8):
        super().__init__()
        self.terms = AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip, eps, True, reduction='mean')

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        return self.terms(scores[labels >= 0], labels[labels >= 0])


@MODELS.register_module()
class GrainSigmoidLoss(GrainLoss):
    """Binary cross-entropy of both scores instead of the ranking, mean over known labels."""

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        known = labels >= 0
        return F.binary_cross_entropy_with_logits(scores[known], labels[known].to(scores.dtype))
