"""ZERO: the confident views of a test image vote, and nothing is tuned.

Many random views of one test image are made, and those with the lowest entropy are kept. Each of them casts one vote
for its best class, which is what a softmax at temperature zero does to their mean probability. Ties are broken by the
views that were not kept; nothing is optimised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.contract.roles import TestTimeAdaptation
from vlm_dense.errors import ConfigError
from vlm_dense.methods.test_time.tpt import entropy
from vlm_dense.registry import MODELS

PAPER = dict(
    name='ZERO',
    title='Frustratingly Easy Test-Time Adaptation of Vision-Language Models',
    venue='NeurIPS 2024',
    link='https://arxiv.org/abs/2405.18330',
    code='https://github.com/FarinaMatteo/zero',
    licence='MIT',
    idea='The most confident views of each test image vote for its class; nothing is tuned.',
    trains='nothing; confident views of each test image vote',
    published='ViT-B/16: ImageNet 69.3, A 59.6, V2 64.2, R 77.2, Sketch 48.4',
    contract='views of one image; a second classifier as judge; votes',
    notes="""
`temperature=0.01` averages the probabilities of the same views instead of votes (times their number);
`judge=dict(type='vlm_dense.CLIPClassifier', ...)` lets a larger CLIP vote on the views that the smaller one has kept.

Published by the authors, ViT-B/16: ImageNet 69.31, A 59.61, V2 64.16, R 77.22, Sketch 48.40; with the seven
sentences 71.17, 62.75, 65.23, 80.75, 50.59. They computed the votes in half precision, which is
`temperature=2**-10`.
""",
)


FALLBACKS = ('tied', 'released')


@MODELS.register_module()
class ZERO(TestTimeAdaptation):
    """Each confident view has one vote, the limit of the marginal probability at temperature zero.

    The views of lowest entropy, at CLIP's own temperature, are kept. Classes with equally many votes are told apart by
    the discarded views, the most confident first: the first one with its best class among them decides. If there is
    none, the most confident discarded view does.

    Args:
        class_names: The classifier's, for the judge.
        selection: gamma; int(N * gamma) of the N views are kept.
        temperature: Of the softmax of unscaled cosines that a view casts as its vote. 0: a whole vote for one class.
            The authors' figures come from half precision, where it was 2 ** -10. With CLIP's 0.01 the outputs are the
            averaged probabilities of the kept views, the usual baseline, times their number.
        fallback: Among which classes the most confident discarded view chooses at last: ``'tied'``, or
            ``'released'`` as in the official code, which leaves out the classes K - 1 - t of the tied t and so may
            choose one that had fewer votes.
        judge: Config of another classifier, which casts the votes of the views that the model has kept.
            Ties are still broken by the model.

    Raises:
        ConfigError: a share of views that keeps none or leaves none to break a tie, a negative temperature, an unknown
            fallback, or a judge that adapts itself.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        selection: float = 0.3,
        temperature: float = 0.0,
        fallback: str = 'tied',
        judge: dict | None = None,
    ):
        super().__init__()
        if not 0 < selection < 1:
            raise ConfigError(f'ZERO: selection must lie between 0 and 1, found {selection}; others break ties.')
        if temperature < 0:
            raise ConfigError(f'ZERO: temperature must be 0 or more, found {temperature}.')
        if fallback not in FALLBACKS:
            raise ConfigError(f'ZERO: fallback must be one of {FALLBACKS}, found {fallback!r}.')
        self.selection, self.temperature, self.fallback = selection, temperature, fallback
        self.judge = None if judge is None else MODELS.build(dict(judge, class_names=class_names)).eval()
        if getattr(self.judge, 'test_time', None) is not None:
            raise ConfigError('ZERO: the judge adapts itself to each image; leave test_time out of its config.')

    @torch.no_grad()
    def logits(self, model: nn.Module, views: Tensor) -> Tensor:
        """Votes (1, K), float32; see :class:`TestTimeAdaptation`."""
        scores = model.scores(views)
        kept, discarded = self.split(scores)
        votes = self.votes(cosines(self.judge, views[kept]) if self.judge else unscaled(model, scores[kept]))
        winner, decided_by = self.decide(votes, scores[discarded])
        if decided_by:
            votes[winner] += 1
        return votes[None]

    def split(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the kept and of the discarded views of logits (N, K), each by increasing entropy."""
        count = int(len(scores) * self.selection)
        if not count:
            raise ConfigError(f'ZERO: selection={self.selection} of {len(scores)} views keeps none; raise either.')
        order = entropy(scores).argsort(stable=True)
        return order[:count], order[count:]

    def votes(self, cosines: Tensor) -> Tensor:
        """Sums (K,) of what the kept views vote for, of their cosines (k, K)."""
        if self.temperature == 0:
            return F.one_hot(cosines.argmax(dim=1), cosines.shape[1]).sum(dim=0).to(cosines.dtype)
        return (cosines / self.temperature).softmax(dim=1).sum(dim=0)

    def decide(self, votes: Tensor, discarded: Tensor) -> tuple[int, int]:
        """The class that wins, and how: 0 by votes (K,), 1 by a discarded view, 2 by the fallback.

        Args:
            votes: Of the kept views.
            discarded: Logits (M, K) of the other views, the most confident first.
        """
        tied = (votes == votes.max()).nonzero().flatten()
        if len(tied) == 1:
            return int(tied), 0
        choices = discarded.argmax(dim=1)
        among = torch.isin(choices, tied)
        if among.any():
            return int(choices[among][0]), 1
        if self.fallback == 'tied':
            return int(tied[discarded[0, tied].argmax()]), 2
        others = discarded[0].index_fill(0, len(votes) - 1 - tied, -torch.inf)
        return int(others.argmax()), 2


def unscaled(model: nn.Module, scores: Tensor) -> Tensor:
    """The cosines behind logits of a classifier."""
    return scores / model.text_encoder.logit_scale.exp()


def cosines(model: nn.Module, images: Tensor) -> Tensor:
    """Cosines (B, K) of images (B, 3, H, W) and the classes."""
    return unscaled(model, model.scores(images))
