"""Deep language prompts: the text-only baseline of MaPLe.

"MaPLe: Multi-modal Prompt Learning", CVPR 2023, section 3.2, equations (1) to (3).

This is CoOp with depth: besides the context at the input, fresh tokens replace those of the context in the first
blocks of the text tower. The image tower stays as it is, so image features can be computed once. MaPLe's authors use
it as a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.contract.release import block_before
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='Deep language prompts',
    title='MaPLe: Multi-modal Prompt Learning',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2210.03117',
    code='https://github.com/muzairkhattak/multimodal-prompt-learning',
    licence='MIT',
    idea='Tokens in the blocks of the text tower, one of the baselines of MaPLe.',
    trains='tokens in the blocks of the text tower',
    published='11 sets, ViT-B/16, 16 shots: base 81.7, new 73.8, mean 77.6',
    contract='`deep` of the text tower; (K, D); CE',
)


def deep_vectors(depth: int, blocks: nn.Module, count: int, width: int, std: float = 0.02) -> nn.ParameterList:
    """Replacements of the vectors before blocks 1 .. ``depth`` - 1, (count, width) each; no more than there are blocks.

    Raises:
        ConfigError: a depth below 1.
    """
    if depth < 1:
        raise ConfigError(f'The depth of deep prompts counts blocks from the first: at least 1, found {depth}.')
    later = min(depth, len(blocks)) - 1
    return nn.ParameterList(nn.Parameter(std * torch.randn(count, width)) for _ in range(later))


@MODELS.register_module()
class DeepTextPrompt(LearnedContext):
    """CoOp's context, and other vectors in its place before each of the next blocks.

    Before block l, 0 < l < J, the hidden states of the M vectors are replaced by P_l; after block J they flow on. With
    fewer vectors than words ("a photo of a", M = 2) the last words stay as they are.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        words, num_contexts, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        depth: J, blocks that have vectors of their own; 1 is CoOp.
        pretrained: Checkpoint of the official release, see :meth:`LearnedContext.load_pretrained`.

    Attributes:
        deep: P_1, P_2, ..., (M, d) each.
    """

    key_map = block_before(r'^text_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow$', 'deep.')

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        words: str | None = 'a photo of a',
        num_contexts: int | None = None,
        depth: int = 12,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, num_contexts, words, std=std, init_cfg=init_cfg)
        self.deep = deep_vectors(depth, text_tower.blocks, self.num_contexts, text_tower.width)
        self.load_pretrained(pretrained)

    def encode(
        self, text_tower: TextTower, context: Tensor, classes: Tensor | None = None, deep: Tensor | None = None
    ) -> Tensor:
        """Class embeddings, see :meth:`LearnedContext.encode`; ``deep`` are the own vectors by default."""
        if deep is None and len(self.deep):
            deep = torch.stack(tuple(self.deep))
            if context.dim() == 3:
                deep = deep[:, None].expand(-1, len(context), -1, -1)
        return super().encode(text_tower, context, classes, deep)
