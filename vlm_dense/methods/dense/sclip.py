"""SCLIP: correlative self-attention in the last block."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.methods.dense.last_block import LastBlockAttention
from vlm_dense.registry import MODELS


@MODELS.register_module()
class SCLIPAttention(LastBlockAttention):
    """SCLIP: softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d)), whose rows sum to 2; residual and MLP are kept.

    "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024, section 3.2.

    Args:
        similarity: See :class:`LastBlockAttention`; the paper's ablations take one of the two.
    """

    def __init__(self, similarity: Sequence[str] = ('qq', 'kk')):
        super().__init__(similarity, residual=True, feed_forward=True)
