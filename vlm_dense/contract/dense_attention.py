"""The role of dense attention, from tokens to dense features in the last blocks of a ViT; MaskCLIP's value path."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.registry import MODELS


class DenseAttention(nn.Module):
    """Makes a map of features out of the hidden states in front of a ViT's last blocks.

    A tower of blocks, :class:`~vlm_dense.clip.block_tower.BlockTower`, builds it from ``dense_attention=dict(...)``,
    runs its own blocks up to the last ``num_blocks`` and calls the part there, whenever the feature ``value`` is asked
    for; the tower's other features are unchanged. A part computes each image of a batch on its own.

    Subclasses override :meth:`forward`. One that uses the pieces of a block calls the block with a function as
    ``path``, as :class:`ValueAttention` does.

    Attributes:
        num_blocks: Last blocks of the tower that the part takes over; None: all.
        hidden_states: Indices of earlier blocks with outputs it reads; from 0, in front of the last ``num_blocks``. -1
            is what enters the first block.
        attention_maps: Indices of earlier blocks with attention weights it reads.
        reads_classes: It calls ``last.classify``, so the task has to give a classifier.
        reads_regions: It reads ``last.regions``, so the task has to give them.
        reads_proposals: It calls ``last.propose``, so the task has to give proposals of masks.
        takes_prompts: It inserts prompt tokens between the last ``num_blocks`` itself, ``last.prompts``.
        gives_keys: Its :class:`DenseTokens` hold keys, for MaskCLIP's key smoothing.
    """

    num_blocks: int | None = 1
    hidden_states: tuple[int, ...] = ()
    attention_maps: tuple[int, ...] = ()
    reads_classes: bool = False
    reads_regions: bool = False
    reads_proposals: bool = False
    takes_prompts: bool = False
    gives_keys: bool = False

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the map, see :class:`LastBlocks` and :class:`DenseTokens` for all shapes."""
        raise NotImplementedError

    def take_colours(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Learn how the tower's images are normalised, of colours between 0 and 1; called when it builds the part."""


@MODELS.register_module()
class ValueAttention(DenseAttention):
    """MaskCLIP's value path: the last block with each token attending to itself only.

    "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
    """

    gives_keys = True

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the patches, and their keys through the output projection."""
        tokens, key = last.blocks[0](last.tokens, path=self._path)
        return DenseTokens(tokens[:, last.patches], last.grid, key[:, last.patches])

    @staticmethod
    def _path(block: TransformerBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        _, key, value = block.qkv(x)
        return block.feed_forward(x + block.scaled(block.output(value))), block.output(key)
