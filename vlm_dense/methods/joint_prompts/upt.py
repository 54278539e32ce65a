"""UPT: one set of vectors becomes the prompts of both towers.

Text prompts suffer when images of a class differ much, image prompts when classes lie close. UPT passes one small set
of vectors through a small transformer layer; one part of the output is the text context, the other becomes tokens of
the image tower. In the released code each vector attends to itself only, unlike in the paper's equations, and the
numbers follow the code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.methods.visual_prompts.vpt import check_vit
from vlm_dense.registry import MODELS

PAPER = dict(
    name='UPT',
    title='Unified Vision and Language Prompt Learning',
    venue='arXiv 2022',
    link='https://arxiv.org/abs/2210.07225',
    code='https://github.com/yuhangzang/UPT',
    licence='none',
    idea=(
        'One set of vectors goes through a small Transformer layer; half of the result is the context of the text '
        'tower, half becomes tokens of the image tower.'
    ),
    trains='one set of vectors and a layer that makes the prompts of both towers of it',
    published='ImageNet, ViT-B/16, 16 shots: 72.6; V2 64.4, Sketch 48.7, A 50.7, R 76.2',
    contract='one layer makes context and tokens; CE',
    notes="""
- In the official code each vector attends to itself only, which is what the figures come from. `mixing=True` is the
  layer of the paper's equations.
- Initial words have no effect in the official code, so there is no option for them.

| trained on ImageNet, 16 shots, ViT-B/16 (published, not run again) | ImageNet | V2 | Sketch | A | R |
|---|---|---|---|---|---|
| UPT | 72.63 | 64.35 | 48.66 | 50.66 | 76.24 |
""",
)


@MODELS.register_module()
class UPTPrompt(LearnedContext, ImagePrompt):
    """2n vectors U go through a small layer; half of what comes out is the context, half becomes tokens (section 3.3).

    With attention of one head, dropout left out::

        S  = LN_1(U + Attention(U))
        S' = S + W_2 relu(W_1 LN_2(S) + b_1) + b_2
        context = S'[:n],  tokens = W_m S'[n:] + b_m

    The tokens stand between class token and patches, in front of the layer norm before the blocks, and flow on. The
    layer is evaluated for each tower, in training with a dropout of its own, as in the official code.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: The ViT.
        num_contexts: n, vectors of each tower.
        position: Of the name, see :class:`LearnedContext`.
        mixing: Each vector attends to all, as the paper has it. In the official code each attends to itself only.
        dropout: Rate within the layer.
        std: Standard deviation of the initial vectors.
        pretrained: Checkpoint as the official code saves it.

    Attributes:
        uni_ctx: U, (1, 2n, d).

    Raises:
        ConfigError: a tower that is no ViT.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower,
        num_contexts: int = 4,
        position: str = 'end',
        mixing: bool = False,
        dropout: float = 0.1,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        check_vit(image_tower, type(self).__name__)
        super().__init__(class_names, text_tower, num_contexts, position=position, init_cfg=init_cfg)
        self.ctx = None  # is computed
        self.mixing = mixing
        width = text_tower.width
        self.uni_ctx = nn.Parameter(std * torch.randn(1, 2 * num_contexts, width))
        self.self_attn = nn.MultiheadAttention(width, 1, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Linear(width, image_tower.width)
        self.load_pretrained(pretrained)

    def unified(self) -> Tensor:
        """S', (2n, d)."""
        u = self.uni_ctx.transpose(0, 1) if self.mixing else self.uni_ctx  # (length, batch, d) for the attention
        s = self.norm1(u + self.dropout(self.self_attn(u, u, u, need_weights=False)[0]))
        hidden = self.dropout(self.linear1(self.norm2(s)).relu())
        return (s + self.dropout(self.linear2(hidden))).reshape(self.uni_ctx.shape[1:])

    def context(self, image_features: Tensor | None = None) -> Tensor:
        """Context (n, d) of the text tower."""
        return self.unified()[: self.num_contexts]

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens]:
        """Images as they are, and the tokens (n, C)."""
        return images, PromptTokens(self.mlp(self.unified()[self.num_contexts :]), place='front')

    def describe_shapes(self) -> str:
        """Number and width of the vectors."""
        return (
            f'This UPTPrompt has {self.num_contexts} vectors for each tower, with {self.uni_ctx.shape[-1]} channels, '
            f'and makes tokens of {self.mlp.out_features} channels.'
        )
