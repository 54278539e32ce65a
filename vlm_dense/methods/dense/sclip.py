"""SCLIP: correlative self-attention in the last block.

In CLIP's last block a position collects values from dissimilar positions. SCLIP lets each token attend to
tokens with like queries and to tokens with like keys. Residual, feed-forward network and projection stay, and nothing
is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.methods.dense.last_block import LastBlockAttention
from vlm_dense.registry import MODELS

PAPER = dict(
    name='SCLIP',
    title='SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference',
    venue='ECCV 2024',
    link='https://arxiv.org/abs/2312.01597',
    code='https://github.com/wangf3014/SCLIP',
    licence='none',
    idea=(
        'In the last block a token attends to tokens with queries, and to tokens with keys, like its own; '
        'residual and MLP stay.'
    ),
    notes="""
The published figures come from the repository; the released name lists have synonyms and joined words which these
configs do not have, so figures will differ.
""",
)


@MODELS.register_module()
class SCLIPAttention(LastBlockAttention):
    """SCLIP: softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d)), with rows that sum to 2; residual and MLP are kept.

    "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024, section 3.2.

    Args:
        similarity: See :class:`LastBlockAttention`; the paper's ablations take one of the two.
    """

    def __init__(self, similarity: Sequence[str] = ('qq', 'kk')):
        super().__init__(similarity, residual=True, feed_forward=True)
