"""Input and output of the part that computes dense features in the last blocks of a ViT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vlm_dense.errors import ConfigError

if TYPE_CHECKING:
    from vlm_dense.clip.image_tower import PromptTokens

Classify = Callable[[Tensor], Tensor]
"""Features (B, D, h, w), not normalised -> logits (B, Q, h, w) of Q class texts, temperature included."""

Propose = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Maps (B, C, h, w) of the hidden states that a part reads -> biases (B, H or 1, N, h', w') of N queries, for each of
the last blocks or once for all of them."""


@dataclass
class LastBlocks:
    """A ViT in front of its last blocks.

    Shapes: B images, L tokens (class token, then patches in rows, prompt tokens between or after them), C channels,
    H heads, D channels of the image-text space.

    Attributes:
        images: (B, 3, H, W) the normalised images that the tower was given.
        grid: (h, w) of the patches.
        patch_size: Side of a patch in px.
        patches: The patches among the L tokens.
        project: CLIP's last norm and projection, (..., C) -> (..., D).
        classify: The task's classifier, for a part that ``reads_classes``; None if the task has none to give.
        tokens: (B, L, C) hidden states in front of ``blocks[0]``.
        blocks: The last blocks, :class:`vlm_dense.clip.blocks.Block`.
        hidden_states: Index of a block -> (B, L, C), its output, for those that the part asked for; of -1 what enters
            the first block.
        attention_maps: Index of a block -> (B, H, L, L), its attention weights (rows sum to 1), likewise.
        regions: (B, H, W) labels of the regions of the images, int64, for a part that ``reads_regions``.
        num_prefix: Tokens in front of the patches: the class token, or none.
        propose: The task's proposals of masks, for a part that ``reads_proposals``.
        prompts: Prompt tokens, for a part that ``takes_prompts``.
        first: Index of ``blocks[0]``, which the prompts ask for.
    """

    images: Tensor
    grid: tuple[int, int]
    patch_size: int
    patches: slice
    project: Callable[[Tensor], Tensor]
    classify: Classify | None = None
    tokens: Tensor | None = None
    blocks: Sequence[nn.Module] = ()
    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    attention_maps: dict[int, Tensor] = field(default_factory=dict)
    regions: Tensor | None = None
    num_prefix: int = 1
    propose: Propose | None = None
    prompts: PromptTokens | None = None
    first: int = 0

    def class_token(self, tokens: Tensor, owner: str) -> Tensor:
        """The class token (B, 1, C) among tokens (B, L, C).

        Args:
            owner: What reads it, and what would work without, for the message.

        Raises:
            ConfigError: the tower has none.
        """
        if not self.num_prefix:
            raise ConfigError(
                f'{owner}. This tower has no class token, as those of SigLIP, ViTamin and PE-Core-bigG; towers with '
                "one are those of OpenAI's CLIP ('ViT-B-16'), EVA and PE-Core-L."
            )
        return tokens[:, :1]


@dataclass
class DenseTokens:
    """Tokens of a map, before CLIP's last norm and projection.

    Attributes:
        tokens: (B, h * w, C), in rows; no class token. None where ``features`` are given.
        grid: (h, w), the patches' own or another one (that of a second backbone, say).
        key: (B, h * w, C) keys for MaskCLIP's key smoothing; None if there are none.
        features: (B, h * w, D), projected by the part itself.
    """

    tokens: Tensor | None
    grid: tuple[int, int]
    key: Tensor | None = None
    features: Tensor | None = None
