"""IVLP: independent deep prompts in both towers, the baseline of MaPLe.

"MaPLe: Multi-modal Prompt Learning", CVPR 2023, section 3.2 and table 1.

Both towers get deep prompts: fresh tokens replace those of the layer before in the first blocks. The tokens of the
text and of the image tower are separate parameters, with no coupling. IVLP is MaPLe's baseline and the model that
PromptSRC regularises.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.release import block_before
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.methods.text_prompts.deep_text import DeepTextPrompt
from vlm_dense.methods.visual_prompts.vpt import VPTPrompt
from vlm_dense.registry import MODELS

PAPER = dict(
    name='IVLP',
    title='MaPLe: Multi-modal Prompt Learning',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2210.03117',
    code='https://github.com/muzairkhattak/multimodal-prompt-learning',
    licence='MIT',
    idea='Independent tokens in the blocks of both towers, one of the baselines of MaPLe.',
    trains='tokens in the blocks of both towers',
    published='11 sets, ViT-B/16, 16 shots: base 82.2, new 74.1, mean 77.9',
    contract='`deep`; (K, D); independent tokens; CE',
)


@MODELS.register_module()
class IVLPPrompt(DeepTextPrompt, ImagePrompt):
    """Deep language prompts, and VPT-deep at the end of the patches.

    Args:
        class_names, text_tower: See :class:`TextPrompt`.
        image_tower: The ViT.
        words, num_contexts, std: See :class:`LearnedContext`; ``words=None`` for random vectors.
        depth: Blocks of the text tower that have vectors of their own, see :class:`DeepTextPrompt`.
        num_tokens: Tokens in the image tower.
        visual_depth: Blocks of the image tower that have tokens of their own, see :class:`VPTPrompt`; 0: no tokens.
        pretrained: Checkpoint of the official release, a whole model of which the prompts are taken.

    Attributes:
        visual: The tokens, a :class:`VPTPrompt`.
    """

    key_map = {
        **DeepTextPrompt.key_map,
        r'^image_encoder\.VPT$': 'visual.first',
        **block_before(r'^image_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow$', 'visual.deep.'),
    }

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        image_tower: ImageTower,
        words: str | None = 'a photo of a',
        num_contexts: int | None = 2,
        depth: int = 12,
        num_tokens: int = 2,
        visual_depth: int = 12,
        std: float = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, words, num_contexts, depth, std, init_cfg=init_cfg)
        self.visual = VPTPrompt(image_tower, num_tokens, visual_depth) if visual_depth else None
        self.load_pretrained(pretrained)

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens | None]:
        """Images as they are, and the tokens."""
        return (images, None) if self.visual is None else self.visual.prompt(images)
