"""PLOT: several prompts of a class, matched to the regions of an image by optimal transport.

PLOT learns several prompts for each class and compares them with the local features of an image instead of the
pooled one. Optimal transport assigns prompts to regions; the plan is found by Sinkhorn iterations, through which no
gradient flows. The score of a class is the sum of the local similarities, weighted by the plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.contract.roles import Head
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='PLOT',
    title='PLOT: Prompt Learning with Optimal Transport for Vision-Language Models',
    venue='ICLR 2023',
    link='https://arxiv.org/abs/2210.01253',
    code='https://github.com/CHENGY12/PLOT',
    licence='MIT',
    idea=(
        'Several prompts of each class, and a plan of optimal transport between them and the regions of the image '
        "instead of one cosine. The plan is computed by Sinkhorn's iterations without gradient; what is learned are "
        'the contexts.'
    ),
    trains='several contexts, matched to the regions of the image',
    contract='V prompts; transport plan in the Head; CE',
    notes="""
- The stopping criterion covers the whole batch, as in the official code, so scores depend slightly on the other
  images. `threshold=0` runs `max_iterations` always.
- `global_term` is for ImageNet only; the ten other sets go without it.
- The paper has ResNets. A ViT works too, with its patches as regions; the authors' PLOT++ for ViT also learns visual
  prompts and is another model.
- In DenseCLIP and the other dense tasks the plan of a single pixel is uniform: the score is the mean over the
  prompts.

Published: curves over eleven data sets at 1 to 16 shots, in the paper.
""",
)


@torch.no_grad()
def transport_plan(
    similarity: Tensor,
    epsilon: float = 0.1,
    max_iterations: int = 100,
    threshold: float = 0.01,
    over_processes: bool = False,
) -> tuple[Tensor, int]:
    """Entropic transport between M regions and N prompts of equal mass, at the cost 1 - similarity (section 3.2).

    Sinkhorn's iterations ``r = u / (K c)``, ``c = v / (K^T r)`` with ``K = exp(-(1 - S) / epsilon)``, in logarithms: no
    entry of K is too small. They stop when r changes by less than ``threshold``, on the average over everything in
    ``similarity``, so that the plan of a pair depends a little on the others.

    Args:
        similarity: S, (..., M, N).
        epsilon: Weight of the entropy.
        max_iterations: The most iterations.
        threshold: See above.
        over_processes: The average is over all processes, which must then call this together.

    Returns:
        The plan (..., M, N), without gradient, and the number of iterations.
    """
    log_kernel = (similarity - 1) / epsilon
    log_u, log_v = (-math.log(size) for size in similarity.shape[-2:])
    log_r, log_c = torch.zeros_like(similarity[..., 0]), torch.zeros_like(similarity[..., 0, :])
    iterations, stop = 0, False
    while not stop and iterations < max_iterations:
        before = log_r
        log_r = log_u - torch.logsumexp(log_kernel + log_c[..., None, :], dim=-1)
        log_c = log_v - torch.logsumexp(log_kernel + log_r[..., None], dim=-2)
        change = (log_r.exp() - before.exp()).abs()
        total = torch.stack([change.sum(), change.new_tensor(change.numel())])
        if over_processes:
            all_reduce(total)
        iterations, stop = iterations + 1, bool(total[0] / total[1] < threshold)
    return (log_r[..., None] + log_kernel + log_c[..., None, :]).exp(), iterations


@MODELS.register_module()
class PLOTPrompt(LearnedContext, Head):
    """N contexts that all classes share, and a head that transports the regions of the image to them (section 3.3).

    The score of a class is ``sum_mp T_mp S_mp``, with the cosines S of region m and prompt p and the plan T of
    :func:`transport_plan`, through which no gradient flows. Where a single position is classified, as in dense
    prediction, the plan is uniform and the score is the mean over the prompts.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        num_prompts: N.
        num_contexts: Vectors of each prompt, before the name.
        global_term: Add the cosine of CLIP's image feature and the mean of the N embeddings, as the official code does
            on ImageNet; the mean is one more variant.
        epsilon, max_iterations, threshold: See :func:`transport_plan`. In training on several processes the iterations
            stop in all of them at once.
        std: See :class:`LearnedContext`.
        pretrained: Checkpoint of the official release.

    Attributes:
        ctx: (N, M, d) vectors.

    Raises:
        ConfigError: ``num_prompts`` or ``max_iterations`` below 1, or an ``epsilon`` that is not positive.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_prompts: int = 4,
        num_contexts: int = 16,
        global_term: bool = False,
        epsilon: float = 0.1,
        max_iterations: int = 100,
        threshold: float = 0.01,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, num_contexts, init_cfg=init_cfg)
        if num_prompts < 1 or max_iterations < 1 or epsilon <= 0:
            raise ConfigError(
                'PLOTPrompt: num_prompts and max_iterations must be at least 1 and epsilon positive, found '
                f'{num_prompts}, {max_iterations} and {epsilon}.'
            )
        self.ctx = nn.Parameter(std * torch.randn(num_prompts, num_contexts, text_tower.width))
        self.global_term = global_term
        self.num_variants = num_prompts + global_term
        self.features = ('dense', 'global') if global_term else ('dense',)
        self.transport = dict(epsilon=epsilon, max_iterations=max_iterations, threshold=threshold)
        self.load_pretrained(pretrained)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (N, K, D), and with the global term their mean, (N + 1, K, D)."""
        embeddings = self.encode(text_tower, self.ctx, classes)
        return torch.cat([embeddings, embeddings.mean(0, keepdim=True)]) if self.global_term else embeddings

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K) by transport."""
        prompts = text[0, : len(self.ctx)]
        regions = F.normalize(features.dense.flatten(2), dim=1)
        similarity = torch.einsum('bdm,nkd->bkmn', regions, prompts)
        plan, _ = transport_plan(similarity, **self.transport, over_processes=self.training)
        score = (plan * similarity).sum(dim=(2, 3))
        if self.global_term:
            score = score + F.normalize(features.global_, dim=-1) @ text[0, -1].T
        return logit_scale * score

    def describe_shapes(self) -> str:
        """Number and width of the vectors."""
        prompts, count, width = self.ctx.shape
        return f'This PLOTPrompt has {prompts} prompts of {count} vectors, with the {width} channels of its text tower.'
