"""SC-CLIP: the last block calibrated by middle blocks, with outlier tokens replaced.

A few outlier tokens in the deep feature map attract the attention of all others; SC-CLIP finds them by a local outlier
factor and replaces each by the mean of its neighbours. The similarity of features from middle layers, which is still
coherent in space, re-weights the deep features and is half of the last attention. The sum of middle layers goes
through the same attention and is added.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.affinity import attention, cosines
from vlm_dense.registry import MODELS

PAPER = dict(
    name='SC-CLIP',
    title='Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation',
    venue='arXiv 2024',
    link='https://arxiv.org/abs/2411.15869',
    code='https://github.com/SuleBai/SC-CLIP',
    licence='none',
    idea=(
        'Anomalous tokens in front of the last block are replaced by their neighbours; features of middle blocks say '
        'what is alike, in the attention and around it; their sum goes through the same attention.'
    ),
    notes="""
The repository prints no figures; those here are quoted from the paper without a check; the released name lists have
synonyms and joined words which these configs do not have, so figures will differ.
""",
)


@MODELS.register_module()
class SCCLIPAttention(DenseAttention):
    """SC-CLIP: three repairs of the last block, without residual and MLP.

    Tokens that a local outlier factor finds anomalous take the mean of their neighbours; features are averaged over
    places that are alike in a middle block, before and after the attention, half of which is that affinity; the sum of
    several middle blocks goes through the same attention and is added. "Self-Calibrated CLIP for Training-Free
    Open-Vocabulary Segmentation", arXiv 2411.15869, section 3.

    Shapes: B images, N patches, C channels. The defaults of ``pre``, ``post`` and ``multi`` are for 12 blocks.

    Args:
        pre: Block of the features for the similarity before the attention and in it; blocks count from 0.
        post: Block of the features for the similarity after the attention.
        multi: First block of the sum, and the one after its last.
        class_weight: Share of the class token that is added to each token after the attention.
        beta: Cosines below this count as 0 when features are averaged.
        num_neighbours: Neighbours of the local outlier factor, in feature space; fewer if there are fewer tokens.
        outliers: Share of outlier tokens.

    Raises:
        ConfigError: an empty sum, or a share that is none.
    """

    def __init__(
        self,
        pre: int = 8,
        post: int = 3,
        multi: tuple[int, int] = (3, 10),
        class_weight: float = 0.3,
        beta: float = 0.4,
        num_neighbours: int = 30,
        outliers: float = 0.05,
    ):
        super().__init__()
        start, stop = multi
        if not 0 <= start < stop:
            raise ConfigError(f'SCCLIPAttention: multi must be (first, end) with first < end, found {tuple(multi)}.')
        if not 0 <= outliers <= 1 or num_neighbours < 1:
            raise ConfigError(
                'SCCLIPAttention: outliers is a share of the tokens and num_neighbours at least 1, found '
                f'{outliers} and {num_neighbours}.'
            )
        self.pre, self.post, self.multi = pre, post, (start, stop)
        self.hidden_states = tuple(sorted({pre, post, *range(start, stop)}))
        self.class_weight = class_weight
        self.beta = beta
        self.num_neighbours = num_neighbours
        self.outliers = outliers

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the patches, in the grid of the patches."""
        tokens = last.tokens[:, last.patches]
        anomalies = self.anomalies(self.outlier_factor(tokens))
        before = replace_outliers(last.hidden_states[self.pre][:, last.patches], anomalies, last.grid)
        similarity = cosines(before)
        after = self.cut(cosines(last.hidden_states[self.post][:, last.patches]))
        deep = average(self.cut(similarity), replace_outliers(tokens, anomalies, last.grid))
        middle = sum(last.hidden_states[i] for i in range(*self.multi))
        first = self.attend(last, deep, similarity) + self.of_class(last, last.tokens)
        second = self.attend(last, middle[:, last.patches], similarity) + self.of_class(last, middle)
        return DenseTokens(average(after, first) + average(after, second), last.grid)

    def of_class(self, last: LastBlocks, tokens: Tensor) -> Tensor | float:
        """The share of the class token, (B, 1, C)."""
        if not self.class_weight:
            return 0.0
        told = (
            f'SCCLIPAttention adds class_weight={self.class_weight} of the class token; set class_weight=0 without one'
        )
        return self.class_weight * last.class_token(tokens, told)

    def outlier_factor(self, tokens: Tensor) -> Tensor:
        """Local outlier factor (B, N) of tokens (B, N, C), float32; 1 if a token is as lonely as its neighbours.

        It is the mean over the nearest others b of a token a of r_a / r_b, r being the squared distance of a token to
        the last of its nearest.
        """
        tokens = tokens.float()
        count = min(self.num_neighbours, tokens.shape[1] - 1)
        if count == 0:
            return tokens.new_ones(tokens.shape[:2])
        distances = torch.cdist(tokens, tokens, compute_mode='donot_use_mm_for_euclid_dist').square()
        distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest, index = distances.topk(count, dim=2, largest=False)
        radius = nearest[:, :, -1].clamp_min(1e-12)
        # Sorted, so that all tokens sum in one order: where all others are neighbours, the two tokens farthest apart
        # have equal factors, and rounding would make one of them the only outlier.
        others = radius[:, None].expand_as(distances).gather(2, index).sort(dim=2).values
        return (radius[:, :, None] / others).mean(dim=2)

    def anomalies(self, factor: Tensor) -> Tensor:
        """Which tokens, bool (B, N), exceed the quantile of their image's outlier factors (B, N)."""
        return factor > factor.quantile(1 - self.outliers, dim=1, keepdim=True)

    def cut(self, similarity: Tensor) -> Tensor:
        """``affinity`` with entries below ``beta`` set to 0."""
        return similarity.where(similarity >= self.beta, 0)

    def attend(self, last: LastBlocks, tokens: Tensor, similarity: Tensor) -> Tensor:
        """Attention output (B, N, C) of the last block: half by ``affinity`` (B, N, N), half by keys."""
        return last.blocks[-1](tokens, path=partial(self._path, alike=attention(similarity, 1.0, 3.0)))

    @staticmethod
    def _path(block: TransformerBlock, x: Tensor, alike: Tensor) -> Tensor:
        _, k, v = block.qkv(x)
        weights = (alike[:, None] + block.weights(k, k)) / 2
        return block.scaled(block.output(weights.to(v.dtype) @ v))


def average(weights: Tensor, tokens: Tensor) -> Tensor:
    """Means of tokens (B, N, C) by weights (B, N, N), with rows divided by their sums."""
    return (weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)).to(tokens.dtype) @ tokens


def replace_outliers(tokens: Tensor, anomalies: Tensor, grid: tuple[int, int]) -> Tensor:
    """Replace anomalous tokens by the mean of those of their 8 neighbours that are not anomalous; else they stay.

    Args:
        tokens: (B, N, C), in rows of the ``grid``.
        anomalies: Bool (B, N).
    """
    maps, sound = tokens.mT.unflatten(2, grid), (~anomalies).unflatten(1, grid)[:, None].to(tokens.dtype)
    count = _around(sound)
    means = _around(maps * sound) / count.clamp_min(1)
    fixed = torch.where((sound == 0) & (count > 0), means, maps)
    return fixed.flatten(2).mT


def _around(maps: Tensor) -> Tensor:
    """Sums over the 3 x 3 places around each place."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1)
