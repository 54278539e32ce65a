"""CALIP: text and positions of the image attend to each other, without any weight.

CALIP lets the class embeddings and the positions of the feature map attend to each other, with no weights to train.
Each class gathers similar positions, and each position gathers similar classes; this
gives two more terms besides the zero-shot logits. Only the weights of the two terms are chosen, by a
grid search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.preparation import Prepared, read_batches
from vlm_dense.contract.roles import Head
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CALIP',
    title='CALIP: Zero-Shot Enhancement of CLIP with Parameter-free Attention',
    venue='AAAI 2023',
    link='https://arxiv.org/abs/2209.14169',
    code='https://github.com/ZiyuGuo99/CALIP',
    licence='none',
    idea=(
        'Positions of the image and classes attend to each other without any weight: each class gathers positions, '
        "each position gathers classes, and both give logits that are added to CLIP's. Nothing is trained; the two "
        'weights of the sum are searched.'
    ),
    trains='nothing; the weights of two terms are searched',
    published='ImageNet, RN50: 60.57',
    contract='search; three terms',
    variants={
        'calip_on-test': dict(trains='as calip, the weights searched on test images as in the official code'),
    },
    notes="""
The official code searches the weights on the test images; `calip_on-test_imagenet.py` and
`calip_on-test_shapes.py` do that too, the others search on validation images. `calip_vit_shapes.py` is the same
on the ViT of the comparisons. With `head=dict(type='vlm_dense.CALIP', betas=(1.0, 0.05))` nothing is searched.

Published: RN50 on ImageNet 60.57 (CLIP 60.32). The variant of the paper with trained layers (CALIP-FS) has no public
code and is not included.
""",
)


_SHARPNESS = 2.0  # of the attention, instead of a learned temperature


@MODELS.register_module()
class CALIP(Prepared, Head, BaseModule):
    """``scale * (g T + beta2 * g T_a + beta3 * V_a T)`` (section 3.2); nothing is trained.

    g is the unit feature of the image, V its M positions and T the K classes, all of unit length. With ``A = 2 V T``,

    - ``T_a``: each class gathers the positions, by the softmax of A over them,
    - ``V_a``: each position gathers the classes, by the softmax of A over them; mean plus maximum over positions.

    Neither is normalised again. The official code has 100 instead of CLIP's ``scale``, which is 100.

    From data: the two betas are the first pair of a grid, beta2 by beta2, that classifies most images of ``search``.
    The official code searches on the test images. Where no pair classifies any image, both are 0.

    Args:
        betas: beta2 and beta3 without a search; default: they are searched.
        search_max: The search of beta2 and of beta3 ends below these; it begins at 0.001. The default is the official
            code's for ImageNet.
        search_step: Numbers of values of beta2 and of beta3.

    Attributes:
        betas: beta2 and beta3, (2,).
        search_accuracy: Percent of the last search's images, float64 (beta2s, beta3s).

    Raises:
        ConfigError: an empty grid, given betas with a search, or neither of them.
    """

    features = ('global', 'dense')

    def __init__(
        self,
        betas: Sequence[float] | None = None,
        search_max: Sequence[float] = (2.0, 0.1),
        search_step: Sequence[int] = (200, 200),
    ):
        super().__init__()
        if len(search_max) != 2 or len(search_step) != 2 or min(search_step) < 1 or betas and len(betas) != 2:
            raise ConfigError(
                'CALIP: betas, search_max and search_step have a number for beta2 and one for beta3, the last at least '
                f'1; found {betas}, {tuple(search_max)} and {tuple(search_step)}.'
            )
        self.search_max, self.search_step = tuple(search_max), tuple(search_step)
        self.given = betas is not None
        self.register_buffer('betas', torch.tensor([0.0, 0.0] if betas is None else betas, dtype=torch.float64))
        self.prepared = self.given
        self.search_accuracy: Tensor | None = None

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K)."""
        self.check_prepared()
        return logit_scale * self.mix(self.terms(features, text), *self.betas.tolist())

    @staticmethod
    def mix(terms: Sequence[Tensor], beta2: float, beta3: float | Tensor) -> Tensor:
        """The weighted sum of the three terms."""
        cosine, by_image, by_text = terms
        return cosine + beta2 * by_image + beta3 * by_text

    @staticmethod
    def terms(features: ImageFeatures, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``g T``, ``g T_a`` and ``V_a T``, each (B, K) or (B, V, K)."""
        image = F.normalize(features.global_, dim=-1)
        positions = F.normalize(features.dense.flatten(2).transpose(1, 2), dim=-1)
        text = text[None] if text.dim() == 2 else text
        affinity = _SHARPNESS * torch.einsum('bmd,b...kd->b...mk', positions, text)
        classes = torch.einsum('b...mk,bmd->b...kd', affinity.softmax(dim=-2), positions)
        guided = torch.einsum('b...mk,b...kd->b...md', affinity.softmax(dim=-1), text)
        pooled = guided.mean(dim=-2) + guided.amax(dim=-2)
        return (
            torch.einsum('bd,b...kd->b...k', image, text),
            torch.einsum('bd,b...kd->b...k', image, classes),
            torch.einsum('b...d,b...kd->b...k', pooled, text),
        )

    # --- the search -----------------------------------------------------------------------------------------------

    @property
    def grid(self) -> tuple[list[float], list[float]]:
        """Values of beta2 and of beta3 that are searched."""
        return tuple(
            [0.001 + i * (most - 0.001) / steps for i in range(steps)]
            for most, steps in zip(self.search_max, self.search_step, strict=True)
        )

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Search the betas on ``search``, unless they are given."""
        if not self.given:
            self.search(model, self.loader(data, 'search'))
        elif 'search' in data:
            raise ConfigError('CALIP: betas are given, so that nothing is searched. Leave out betas, or the search.')

    @torch.no_grad()
    def search(self, model: nn.Module, loader: DataLoader) -> None:
        """Set the betas to the first pair that classifies most images of a data set.

        Args:
            model: The classifier, in eval mode.
            loader: The labelled images.
        """
        if model.text_prompt.image_conditioned or model.text_prompt.num_variants is not None:
            raise ConfigError(f'CALIP searches with one text a class, {type(model.text_prompt).__name__} gives more.')
        text = model.text_side.classifier_weights()
        beta2s, beta3s = self.grid
        right = torch.zeros(len(beta2s), len(beta3s), dtype=torch.int64, device=text.device)
        inner = torch.tensor(beta3s, device=text.device)[:, None, None]
        count = 0
        for features, labels in read_batches(model, loader):
            terms = self.terms(features, text)
            count += len(labels)
            for number, beta2 in enumerate(beta2s):
                right[number] += (self.mix(terms, beta2, inner).argmax(dim=-1) == labels).sum(dim=-1)
        self.search_accuracy = 100 * right.double().cpu() / count
        best = int(right.flatten().argmax())
        pair = (beta2s[best // len(beta3s)], beta3s[best % len(beta3s)]) if right.max() > 0 else (0.0, 0.0)
        self.betas.copy_(torch.tensor(pair))
        self.prepared = True
        print_log(
            f'CALIP: beta2 {pair[0]:.4g} and beta3 {pair[1]:.4g} classify {self.search_accuracy.max():.2f} % of '
            f'{count} images, most of {right.numel()} pairs.',
            logger='current',
        )
