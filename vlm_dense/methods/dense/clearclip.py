"""ClearCLIP: the last block without residual and MLP, with query-query attention.

The residual stream that enters the last block of CLIP's ViT holds global information and outweighs the
attention output of a position. ClearCLIP drops this residual and the feed-forward network, and lets queries attend to
queries. The output of that attention is normalised, projected and compared with the class embeddings at each patch;
nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from vlm_dense.clip.last_blocks import LastBlocks
from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.last_block import LastBlockAttention
from vlm_dense.registry import MODELS

PAPER = dict(
    name='ClearCLIP',
    title='ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference',
    venue='ECCV 2024',
    link='https://arxiv.org/abs/2407.12442',
    code='https://github.com/mc-lan/ClearCLIP',
    licence='NTU S-Lab 1.0',
    idea=(
        'In the last block queries attend to queries; the residual, which carries what is said of the whole image, '
        'and the MLP are left out.'
    ),
    notes="""
The published figures come from an image in the repository; the released name lists have synonyms and joined words
which these configs do not have, so figures will differ.
""",
)


@MODELS.register_module()
class ClearCLIPAttention(LastBlockAttention):
    """ClearCLIP: softmax(q q^T / sqrt(d)), no residual, no MLP.

    "ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference", ECCV 2024, section 3.3.

    Args:
        similarity, residual, feed_forward: See :class:`LastBlockAttention`; the paper's ablations, and other attentions
            in the reduced block.
        num_blocks: So many of the last blocks each give tokens in this way, which are summed; the ordinary stream goes
            through them unchanged.

    Raises:
        ConfigError: ``num_blocks`` is not positive.
    """

    def __init__(
        self,
        similarity: Sequence[str] = ('qq',),
        residual: bool = False,
        feed_forward: bool = False,
        num_blocks: int = 1,
    ):
        super().__init__(similarity, residual, feed_forward)
        if num_blocks < 1:
            raise ConfigError(f'ClearCLIPAttention: num_blocks must be at least 1, found {num_blocks}.')
        self.num_blocks = num_blocks

    def all_tokens(self, last: LastBlocks) -> Tensor:
        """Sum over the blocks of their tokens, (B, L, C)."""
        total, x = 0, last.tokens
        for index, block in enumerate(last.blocks):
            total = total + block(x, path=partial(self.run, last=last))
            if index + 1 < len(last.blocks):
                x = block(x)
        return total
