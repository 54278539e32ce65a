"""ResCLIP: attention of middle blocks and a first segmentation, both mixed into the last block's attention.

Attention in the middle blocks of CLIP still localises objects, so ResCLIP mixes its average into the last block's
attention of keys to keys. A first segmentation then tells which patches share a class and touch, and the last block
runs again with this knowledge in its attention. It is training-free, and an addition to methods such as SCLIP,
ClearCLIP and NACLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import LastBlocks
from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.last_block import LastBlockAttention
from vlm_dense.methods.dense.naclip import neighbours
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.pamr import PAMR

PAPER = dict(
    name='ResCLIP',
    title='ResCLIP: Residual Attention for Training-free Dense Vision-language Inference',
    venue='CVPR 2025',
    link='https://arxiv.org/abs/2411.15851',
    code='https://github.com/yvhangyang/ResCLIP',
    licence='none',
    idea=(
        "The last block's attention, NACLIP's here, takes in the attention of middle blocks; a first segmentation "
        'then says which patches belong together, and the block runs again with that.'
    ),
    notes="""
The published figures, on NACLIP, come from the repository; the released name lists have synonyms and joined words
which these configs do not have, so figures will differ.
""",
)


@MODELS.register_module()
class ResCLIPAttention(LastBlockAttention):
    """ResCLIP: a self-self attention A becomes t ((1 - w) A + w C), then t and w again for a first segmentation S.

    Residual cross-correlation: C is the mean attention of middle blocks, mixed in after the softmax. Semantic feedback:
    S says which patches have the same class in a first segmentation, mixed into the scores before the softmax, in a
    second pass. "ResCLIP: Residual Attention for Training-free Dense Vision-language Inference", CVPR 2025, sections
    3.2 and 3.3. The defaults sit on NACLIP's attention.

    Args:
        std: Standard deviation in patches of NACLIP's Gaussian, and of the blur of S along the rows of the matrix.
        neighbour_bias: Add NACLIP's Gaussian to the scores.
        similarity, residual, feed_forward: See :class:`LastBlockAttention`. ``('qq',)`` without Gaussian is ClearCLIP's
            attention, ``('qq', 'kk')`` with residual and MLP SCLIP's.
        cross: (t, w) of C; None: without it.
        cross_blocks: Blocks with attention C; they count from 0.
        feedback: (t, w) of S; None: without it.
        thresh: Pixels of the first segmentation with a largest probability below this count as class 0.
        connected: Damp pairs of patches of one class that no clear straight path joins.
        pamr: Arguments of :class:`~vlm_dense.segmentation.pamr.PAMR` for the first segmentation.

    Raises:
        ConfigError: no similarity, or a std that is not positive.
    """

    def __init__(
        self,
        std: float = 5.0,
        neighbour_bias: bool = True,
        similarity: Sequence[str] = ('kk',),
        residual: bool = False,
        feed_forward: bool = False,
        cross: tuple[float, float] | None = (2.0, 0.3),
        cross_blocks: Sequence[int] = (5, 6, 7, 8),
        feedback: tuple[float, float] | None = (2.1, 0.7),
        thresh: float = 0.25,
        connected: bool = True,
        pamr: dict | None = None,
    ):
        super().__init__(similarity, residual, feed_forward)
        if not self.similarity or std <= 0:
            raise ConfigError(
                f'ResCLIPAttention: similarity must not be empty and std be positive, found {similarity} and {std}.'
            )
        if cross is not None and not cross_blocks:
            raise ConfigError('ResCLIPAttention: cross mixes the attention of cross_blocks, and there are none.')
        self.std = std
        self.neighbour_bias = neighbour_bias
        self.cross = cross
        self.attention_maps = () if cross is None else tuple(cross_blocks)
        self.feedback = feedback
        self.reads_classes = feedback is not None
        self.thresh = thresh
        self.connected = connected
        self.pamr = PAMR(**(pamr or dict(iterations=10, dilations=(8, 16))))

    def all_tokens(self, last: LastBlocks) -> Tensor:
        """All tokens after the last block, (B, L, C), the class token included."""
        first = super().all_tokens(last)
        if self.feedback is None:
            return first
        labels = self.patch_labels(last, self.first_probabilities(last, first))
        same = self.whole_matrix(last, self.same_class(labels))
        return last.blocks[-1](last.tokens, path=partial(self.run, last=last, same=same))

    def mix(
        self, block: TransformerBlock, q: Tensor, k: Tensor, v: Tensor, last: LastBlocks, same: Tensor | None = None
    ) -> Tensor:
        """Values (B, H, L, d) mixed by :meth:`weights`."""
        return self.weights(block, q, k, v, last, same) @ v

    def weights(
        self, block: TransformerBlock, q: Tensor, k: Tensor, v: Tensor, last: LastBlocks, same: Tensor | None = None
    ) -> Tensor:
        """Weights (B, H, L, L); ``same`` (B, L, L) is S; its largest entry becomes 1."""
        named, bias = dict(q=q, k=k, v=v), self.bias(last)
        factor = 1.0
        if same is not None:
            size, share = self.feedback
            factor = size * (1 - share)
            blend = size * share * same / same.amax(dim=(1, 2), keepdim=True)
            bias = blend[:, None] if bias is None else blend[:, None] + bias
        weights = sum(block.weights(factor * named[a], named[b], bias) for a, b in self.similarity)
        if self.cross is None:
            return weights
        size, share = self.cross
        return size * ((1 - share) * weights + share * self.cross_attention(last))

    def bias(self, last: LastBlocks) -> Tensor | None:
        """NACLIP's Gaussian (L, L)."""
        return neighbours(last, self.std) if self.neighbour_bias else None

    def cross_attention(self, last: LastBlocks) -> Tensor:
        """C, (B, H, L, L)."""
        return sum(last.attention_maps[i] for i in self.attention_maps) / len(self.attention_maps)

    # --- semantic feedback ----------------------------------------------------------------------------------------

    def first_probabilities(self, last: LastBlocks, tokens: Tensor) -> list[Tensor]:
        """Probabilities (Q, H, W) of the class texts, one of each image, of tokens (B, L, C) of the first pass."""
        features = last.project(tokens[:, last.patches]).mT.unflatten(2, last.grid)
        height, width = last.images.shape[2:]
        logits = last.classify(features).float()
        found = []
        for maps, image in zip(logits, last.images, strict=True):
            maps = F.interpolate(maps[None], (height, width), mode='bilinear', align_corners=False)[0]
            found.append(self.pamr.on(image)(maps).softmax(dim=0))
        return found

    def patch_labels(self, last: LastBlocks, probabilities: Sequence[Tensor]) -> Tensor:
        """The most frequent label of each patch's pixels, (B, h, w), int64; of several the smallest."""
        (h, w), p = last.grid, last.patch_size
        found = []
        for each in probabilities:
            best, labels = each.max(dim=0)
            labels = labels.masked_fill(best < self.thresh, 0)[: h * p, : w * p]
            more = h * p - labels.shape[0], w * p - labels.shape[1]  # where the tower has padded the image
            labels = F.pad(labels[None].float(), (0, more[1], 0, more[0]), mode='replicate')[0].long()
            tiles = labels.unflatten(1, (w, p)).unflatten(0, (h, p)).transpose(1, 2).flatten(2).flatten(0, 1)
            counts = tiles.new_zeros(h * w, len(each)).scatter_add_(1, tiles, torch.ones_like(tiles))
            found.append(counts.argmax(dim=1).unflatten(0, (h, w)))
        return torch.stack(found)

    def same_class(self, labels: Tensor) -> Tensor:
        """S of the patches (B, N, N) of their labels (B, h, w); rows sum to 1."""
        flat = labels.flatten(1)
        same = (flat[:, :, None] == flat[:, None]).float()
        if self.connected:
            distance = _distances(labels)
            damped = torch.exp(-distance / max(distance.max().item(), 1))
            same = torch.where(clear_path(labels), same, same * damped)
        same = self._blur(same)
        return same / (same.sum(dim=-1, keepdim=True) + 1e-8)

    def _blur(self, rows: Tensor) -> Tensor:
        """Rows (B, N, N), each a signal of its own, smoothed by a Gaussian with zeros beyond their ends."""
        size = min(rows.shape[-1], int(6 * self.std + 1)) // 2 * 2 + 1
        x = torch.arange(size, device=rows.device, dtype=rows.dtype) - size // 2
        kernel = torch.exp(-x.square() / (2 * self.std**2))
        kernel = (kernel / kernel.sum())[None, None]
        return F.conv1d(rows.flatten(0, 1)[:, None], kernel, padding=size // 2)[:, 0].view_as(rows)

    def whole_matrix(self, last: LastBlocks, same: Tensor) -> Tensor:
        """S of the patches (B, N, N) in a matrix of all tokens (B, L, L), 0 elsewhere."""
        count = last.tokens.shape[1]
        whole = same.new_zeros(len(same), count, count)
        whole[:, last.patches, last.patches] = same
        return whole


def _distances(labels: Tensor) -> Tensor:
    """The larger of the distances in rows and in columns of two patches, (N, N), int16."""
    rows, columns = (_apart(torch.arange(n, device=labels.device)) for n in labels.shape[1:])
    return torch.maximum(rows[:, None, :, None], columns[:, None]).flatten(2).flatten(0, 1)


def clear_path(labels: Tensor) -> Tensor:
    """Which patches see each other past those of another label, bool (B, N, N), as the released code finds out.

    With the largest distance s of the grid the segment from a to b is looked at in s + 1 points, of which only as many
    count as a and b are apart: the nearer part of it. So this is not symmetric.

    Args:
        labels: (B, h, w).
    """
    h, w = labels.shape[1:]
    rows, columns = (torch.arange(n, device=labels.device, dtype=torch.float32) for n in (h, w))
    steps = max(h, w, 2) - 1
    turned = labels.permute(2, 0, 1).to(torch.int16)  # axes (w, B, h): what is taken below are long runs of memory
    apart = torch.maximum(_apart(columns)[:, :, None, None, None], _apart(rows))
    clear = torch.ones((), dtype=torch.bool, device=labels.device)
    for j in range(steps + 1):
        t = torch.tensor(j / steps, dtype=torch.float32, device=labels.device)
        y, x = ((n[:, None] * (1 - t) + n * t).round().long() for n in (rows, columns))
        met = turned[:, :, y].index_select(0, x.flatten()).unflatten(0, (w, w))  # (w of a, w of b, B, h of a, h of b)
        clear = clear & ((met == turned[:, None, :, :, None]) | (apart < j))
    return clear.permute(2, 3, 0, 4, 1).flatten(3, 4).flatten(1, 2)


def _apart(places: Tensor) -> Tensor:
    return (places[:, None] - places).abs().to(torch.int16)
