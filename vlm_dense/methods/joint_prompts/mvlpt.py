"""MVLPT: prompts of both towers that several tasks share.

A prompt trained from scratch on one small task is poor. MVLPT first learns one prompt on several source tasks
together and then continues with it on the target task. The prompt is text (MCoOp), image tokens (MVPT), or both
through a small shared block (MUPT).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext
from vlm_dense.contract.release import release_weights
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.errors import ConfigError
from vlm_dense.methods.visual_prompts.vpt import VPTPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='MVLPT',
    title='Multitask Vision-Language Prompt Tuning',
    venue='WACV 2024',
    link='https://arxiv.org/abs/2211.11720',
    code='https://github.com/sIncerass/MVLPT',
    licence='MIT',
    idea=(
        'One prompt is trained on several source tasks at once, then on the target task. It is one of the text tower '
        '(MCoOp), of the image tower (MVPT), or of both through a small shared block (MUPT, `vlm_dense.MVLPTPrompt`).'
    ),
    trains='prompts of both towers and a block that both go through, on several tasks',
    contract='`task`, several data sets, soft targets; as CoOp, VPT or both; CE',
    notes="""
- `mcoop_coop11.py` and `mvpt_coop11.py` are the two other prompts, from CoOp's and VPT's parts.
- In the official code each vector goes through the block alone, so that nothing passes from one tower to the other.
  The published prompts were trained like this, and so are ours.
- The softmax goes over the classes of all tasks (`others='kept'`). With the official code's option for labels of a
  task, `others='zero'`, logits of other tasks are zero, which competes; `'left_out'` leaves them out.
- Accuracy is counted inside each task.

Published: tables 1 to 4 of the paper, means over 12 ELEVATER targets.
""",
)


@MODELS.register_module()
class MVLPTPrompt(LearnedContext, ImagePrompt):
    """A context c and tokens V of every block, both sent through one small Transformer block (MUPT, section 3.2).

    ``c' = B_t block(A_t c)`` and ``V' = B_v block(A_v V)`` are used, with linear maps A and B to and from the block's
    width. As in the official code each vector attends to itself only, so that nothing passes from c to V. The tokens
    stand between class token and patches, behind the layer norm in front of the blocks.

    The paper's two other prompts are parts of other methods: MCoOp is :class:`CoOpPrompt` with
    ``position='middle'``; MVPT is ``VPTPrompt(place='front', through_ln_pre=False, std=None)`` and
    :class:`ZeroShotPrompt`.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: The ViT.
        num_contexts, words, position, class_specific, std: See :class:`LearnedContext`.
        num_tokens, depth: See :class:`VPTPrompt`.
        project_dim: Width of the block; ``None``: c and V are used as they are.
        pretrained: Checkpoint of the official release.

    Attributes:
        visual: V, a :class:`VPTPrompt`.
        text_in, text_out, image_in, image_out: A_t, B_t, A_v and B_v; nothing where the widths agree.

    Raises:
        ConfigError: a tower that is no ViT, or a ``project_dim`` below 1.
    """

    key_map = {
        r'^mvlpt_proj\.resblocks\.0\.': 'block.',
        r'^mvlpt_proj_ctx_coop_pre\.': 'text_in.',
        r'^mvlpt_proj_ctx_coop_post\.': 'text_out.',
        r'^mvlpt_proj_ctx_vpt_pre\.': 'image_in.',
        r'^mvlpt_proj_ctx_vpt_post\.': 'image_out.',
    }

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower,
        num_contexts: int | None = 4,
        words: str | None = None,
        position: str = 'middle',
        class_specific: bool = False,
        num_tokens: int = 4,
        depth: int = 12,
        project_dim: int | None = 128,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        own = dict(position=position, class_specific=class_specific, std=std, init_cfg=init_cfg)
        super().__init__(class_names, text_tower, num_contexts, words, **own)
        self.visual = VPTPrompt(image_tower, num_tokens, depth, place='front', through_ln_pre=False, std=None)
        if project_dim is not None and project_dim < 1:
            raise ConfigError(f'MVLPTPrompt: project_dim must be at least 1, or None; found {project_dim}.')
        self.block = None
        if project_dim is not None:
            self.block = ResidualAttentionBlock(project_dim, 1, act_layer=QuickGELU)
            self.text_in, self.text_out = _maps(text_tower.width, project_dim)
            self.image_in, self.image_out = _maps(image_tower.width, project_dim)
        self.load_pretrained(pretrained)

    def context(self, image_features: Tensor | None = None) -> Tensor:
        """c', (M, d), or (K, M, d) if ``class_specific``."""
        return self.ctx if self.block is None else self.text_out(self._each(self.text_in(self.ctx)))

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens]:
        """Images as they are, and the tokens V'."""
        if self.block is None:
            return self.visual.prompt(images)
        tokens = self.image_in(torch.stack([self.visual.first, *self.visual.deep]))
        first, *deep = self.image_out(self._each(tokens))
        return images, PromptTokens(first, tuple(deep), place='front', through_ln_pre=False)

    def _each(self, vectors: Tensor) -> Tensor:
        """The block on each vector of (..., q) alone, in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.block(vectors.float().flatten(0, -2)[:, None]).view(vectors.shape)

    def convert_release(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The release has the tokens of the first block and of all others in a tensor each."""
        tokens = {name: weights.pop(name) for name in [*weights] if name.startswith('vpt_embeddings')}
        return {**weights, **{f'visual.{name}': value for name, value in release_weights(self.visual, tokens).items()}}

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        return f'{super().describe_shapes()} {self.visual.describe_shapes()}'


def _maps(width: int, project_dim: int) -> tuple[nn.Module, nn.Module]:
    if width == project_dim:
        return nn.Identity(), nn.Identity()
    return nn.Linear(width, project_dim), nn.Linear(project_dim, width)
