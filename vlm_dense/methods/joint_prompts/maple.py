"""MaPLe: prompts of the image tower are linear images of those of the text tower.

"MaPLe: Multi-modal Prompt Learning", CVPR 2023, section 3.2.

MaPLe learns prompt tokens in the first blocks of both towers. The tokens of the image tower are not free: a linear
layer computes them from the text tokens of the same depth. So both towers are tuned together, and accuracy on new
classes stays higher than with separate prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.methods.text_prompts.deep_text import DeepTextPrompt
from vlm_dense.methods.visual_prompts.vpt import check_vit
from vlm_dense.registry import MODELS

PAPER = dict(
    name='MaPLe',
    title='MaPLe: Multi-modal Prompt Learning',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2210.03117',
    code='https://github.com/muzairkhattak/multimodal-prompt-learning',
    licence='MIT',
    idea='Tokens of the text tower, and layers that compute those of the image tower from them.',
    trains='tokens of the text tower and layers that make those of the image tower of them',
    published='11 sets, ViT-B/16, 16 shots: base 82.3, new 75.1, mean 78.6',
    contract='`deep`; (K, D); tokens from the text side; CE',
)


@MODELS.register_module()
class MaPLePrompt(DeepTextPrompt, ImagePrompt):
    """Deep language prompts P_l, and F_l(P_l) as tokens at the end of the patches (equations 1 to 6).

    P_0 is the context. F_0 ... F_(J-1) are linear; those of the later blocks begin as copies of one another. Only
    F_0(P_0) passes the layer norm in front of the blocks.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: The ViT.
        words, num_contexts, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        depth: J, blocks of both towers that have vectors of their own.
        pretrained: Checkpoint of the official release, a whole model of which the prompts are taken.

    Attributes:
        proj: F_0.
        deep_proj: F_1, F_2, ...
    """

    key_map = {r'^compound_prompts_text\.': 'deep.', r'^compound_prompt_projections\.': 'deep_proj.'}

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower,
        words: str | None = 'a photo of a',
        num_contexts: int | None = 2,
        depth: int = 9,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        check_vit(image_tower, type(self).__name__)
        depth = min(depth, len(image_tower.blocks))
        super().__init__(class_names, text_tower, words, num_contexts, depth, std, init_cfg=init_cfg)
        self.proj = nn.Linear(text_tower.width, image_tower.width)
        later = nn.Linear(text_tower.width, image_tower.width)
        self.deep_proj = nn.ModuleList(deepcopy(later) for _ in self.deep)
        self.load_pretrained(pretrained)

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens]:
        """Images as they are, and the tokens F_l(P_l)."""
        later = tuple(project(vectors) for project, vectors in zip(self.deep_proj, self.deep, strict=True))
        return images, PromptTokens(self.proj(self.ctx), later)
