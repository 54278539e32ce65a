"""Variational prompts: a learned distribution of the context, sampled at each use.

"Bayesian Prompt Learning for Image-Language Model Generalization", ICCV 2023; first called variational prompt tuning.

The shift that is added to the context vectors is random: its posterior is a learned Gaussian, its prior the standard
normal. Several shifts are drawn, the class probabilities are averaged over them, and a KL term holds the posterior
near the prior. The posterior is one for all images or predicted from each image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='Variational prompts',
    title='Bayesian Prompt Learning for Image-Language Model Generalization',
    venue='ICCV 2023',
    link='https://arxiv.org/abs/2210.02390',
    code='https://github.com/saic-fi/Bayesian-Prompt-Learning',
    licence='MIT',
    idea=(
        'The learned vectors are shifted by a random vector with a learned normal distribution. Class probabilities '
        'are averaged over samples, and the distribution is held near the standard normal one. It is global, or with '
        '`conditional=True` predicted from the image.'
    ),
    trains='context vectors and the distribution of their shift',
    published='11 sets, ViT-B/16, 16 shots: new 74.9; CoCoOp 71.7',
    contract='V samples, (B, V, K, D) if conditional; `reduce_variants`; NLL of the mixture + KL',
    notes="""
First version: variational prompt tuning improves generalization of vision-language models

Samples and epochs in the paper: Caltech101 20/20, Pets 40/20, Cars 20/40, Flowers 10/40, Food101 20/20, Aircraft
10/10, SUN397 20/10, DTD 40/10, EuroSAT 20/60, UCF101 5/20, ImageNet 10/10.

In eval mode the samples follow from `seed` and serve all images; the official code draws again for each. A batch may
hold several images with `conditional=True` too, where the official code takes one.

Published, 11 data sets, ViT-B/16, 16 shots: 74.9 on new classes (CoCoOp 71.7).
""",
)


def three_layers(channels: int, out_channels: int) -> nn.Sequential:
    """Network of a conditional posterior: channels -> half -> half -> out_channels, with ELU between."""
    hidden = channels // 2
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, out_channels)
    )


@MODELS.register_module()
class VariationalPrompt(LearnedContext):
    """``[SOS] v_1 + r .. v_M + r name . [EOT]`` with r ~ N(mu, exp(rho)), sampled V times (section 3.2).

    The score of a class is ``log mean_r softmax(logits)``; its cross-entropy is the negative log-likelihood. Added is
    ``loss_kl = kl_weight * mean over channels and images of KL(N(mu, exp(rho)) || N(0, 1))``. With

    - ``conditional=False``, mu and rho are parameters;
    - ``conditional=True``, two networks make them of the image's unit feature z. The official code works for one image
      at a time.

    The same draw serves all classes and, scaled by each posterior, all images of a batch. In eval mode it follows
    from ``seed``, so that an evaluation can be repeated; the official code draws again for each image.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        num_samples: V; between 5 and 40 in the paper, by data set.
        conditional: See above.
        kl_weight: See above.
        words, num_contexts, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        seed: Of the draw in eval mode.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.

    Attributes:
        mean, log_variance: mu and rho, (1, d) or networks; ``mean_posterior`` and, in spite of its name,
            ``std_posterior`` of the release, or ``meta_net.*``.

    Raises:
        ConfigError: less than one sample.
    """

    key_map = {
        r'^mean_posterior$': 'mean',
        r'^std_posterior$': 'log_variance',
        r'^meta_net\.weight_(mean|log_variance)\.module\.': r'\1.',
    }

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        num_samples: int = 10,
        conditional: bool = False,
        kl_weight: float = 0.001,
        words: str | None = 'a photo of a',
        num_contexts: int | None = None,
        std: float = 0.02,
        seed: int = 0,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, num_contexts, words, std=std, init_cfg=init_cfg)
        if num_samples < 1:
            raise ConfigError(f'VariationalPrompt: num_samples must be at least 1, found {num_samples}.')
        self.num_variants, self.image_conditioned = num_samples, conditional
        self.kl_weight, self.seed = kl_weight, seed
        width = text_tower.width
        if conditional:
            self.mean = three_layers(text_tower.embed_dim, width)
            self.log_variance = three_layers(text_tower.embed_dim, width)
        else:
            self.mean = nn.Parameter(torch.zeros(1, width))
            self.log_variance = nn.Parameter(torch.rand(1, width))
        self._posterior: tuple[Tensor, Tensor] | None = None
        self.load_pretrained(pretrained)

    def posterior(self, image_features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and rho, (1, d) each, or (B, d) of image features (B, D)."""
        if not self.image_conditioned:
            return self.mean, self.log_variance
        z = F.normalize(image_features, dim=-1)
        return self.mean(z), self.log_variance(z)

    def draw(self) -> Tensor:
        """Standard normal numbers (V, d)."""
        generator = None if self.training else torch.Generator().manual_seed(self.seed)
        return torch.randn(self.num_variants, self.ctx.shape[1], generator=generator)

    def context(self, image_features: Tensor | None = None) -> Tensor:
        """(V, M, d) sampled vectors, or (B, V, M, d)."""
        mean, log_variance = self._posterior = self.posterior(image_features)
        shift = mean[:, None] + self.draw().to(mean) * (log_variance / 2).exp()[:, None]
        vectors = self.ctx + shift[:, :, None]
        return vectors if self.image_conditioned else vectors[0]

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (V, K, D), or (B, V, K, D)."""
        vectors = self.context(image_features)
        embeddings = self.encode(text_tower, vectors.flatten(0, -3), classes)
        return embeddings.unflatten(0, vectors.shape[:-2])

    def reduce_variants(self, logits: Tensor) -> Tensor:
        """Logarithm of the mean probability, (B, V, K, ...) to (B, K, ...)."""
        return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])

    def losses(self, class_embeddings: Tensor) -> dict[str, Tensor]:
        """``loss_kl``."""
        mean, log_variance = (x.float() for x in self._posterior)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
        return dict(loss_kl=self.kl_weight * kl.mean())
