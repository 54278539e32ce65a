"""VPT: learned tokens in the image tower.

"Visual Prompt Tuning", ECCV 2022, section 3.2, in CLIP's frozen tower as in the code of MaPLe, UPT, DPT and MVLPT.

Learnable tokens enter the frozen image tower while the text side stays a hand-written template. The shallow form adds
them to the first block and lets them flow; the deep form gives every block tokens of its own and drops those of the
block before. Places at which authors put the tokens differ, and all of them are options here.
"""

from __future__ import annotations

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens
from vlm_dense.contract.release import block_before, load_release
from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts.deep_text import deep_vectors
from vlm_dense.registry import MODELS

PAPER = dict(
    name='VPT',
    title='Visual Prompt Tuning',
    venue='ECCV 2022',
    link='https://arxiv.org/abs/2203.12119',
    code='https://github.com/KMnP/vpt',
    licence='CC-BY-NC 4.0',
    idea='Learned tokens in the image tower: of the first block (shallow) or of each (deep).',
    trains='tokens in front of the image tower',
    contract='tokens, five placements; text of zero_shot; CE',
    variants={
        'vpt_deep': dict(
            trains='tokens in each block of the image tower',
            published='11 sets, ViT-B/16, 16 shots: base 80.2, new 73.4, mean 76.7',
        ),
    },
)


def check_vit(image_tower: ImageTower, owner: str) -> None:
    """Refuse towers that take no tokens.

    Raises:
        ConfigError: the tower is no stack of blocks.
    """
    if not image_tower.takes_tokens:
        raise ConfigError(
            f'{owner} puts tokens into the image tower, which only a ViT takes: the backbone must be '
            f"'vlm_dense.CLIPViT', or 'vlm_dense.CLIPTower' with such an arch, found {image_tower.description}."
        )


@MODELS.register_module()
class VPTPrompt(ImagePrompt, BaseModule):
    """M tokens beside the patches of the first block, and in deep prompting other ones in their place before the next.

    The code bases put them at different places:

    ================= ======= ========== ===================
    code              depth   place      through_ln_pre
    ================= ======= ========== ===================
    MaPLe, shallow    1       ``end``    yes
    MaPLe, deep       J       ``end``    yes (first block's)
    UPT, shallow      1       ``front``  yes
    UPT, deep         all     ``front``  no
    MVLPT             any     ``front``  no
    DPT (CAVPT), deep all     ``end``    no
    ================= ======= ========== ===================

    Args:
        image_tower: The ViT.
        num_tokens: M.
        depth: Blocks that have tokens of their own; 1 is VPT-shallow, the tower's number of blocks VPT-deep.
        place, through_ln_pre: See :class:`PromptTokens`.
        std: Standard deviation of the initial tokens. ``None``: uniform between -b and b for
            ``b = sqrt(6 / (3 p^2 + C))`` and patches of side p, as in VPT's own code and MVLPT's.
        pretrained: Checkpoint of one of the releases, whole models of which the tokens are taken.

    Attributes:
        first: (M, C) tokens of the first block.
        deep: Those of blocks 1, 2, ..., (M, C) each.

    Raises:
        ConfigError: a tower that is no ViT, a place that does not exist, a depth or number below 1.
    """

    key_map = {
        r'^image_encoder\.VPT$': 'first',
        **block_before(r'^image_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow$', 'deep.'),
        r'^image_encoder\.transformer\.ctx_learner\.ctx$': 'by_block',
        r'^visual_ctx$': 'by_token',
        r'^vpt_embeddings$': 'by_block',
        r'^vpt_embeddings_deep$': 'later_by_block',
    }

    def __init__(
        self,
        image_tower: ImageTower,
        num_tokens: int = 8,
        depth: int = 12,
        place: str = 'end',
        through_ln_pre: bool = True,
        std: float | None = 0.02,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        check_vit(image_tower, type(self).__name__)
        if num_tokens < 1:
            raise ConfigError(f'VPTPrompt: num_tokens must be at least 1, found {num_tokens}.')
        self.place = place
        self.through_ln_pre = through_ln_pre
        width, scale = image_tower.width, 1.0 if std is None else std
        self.first = nn.Parameter(scale * torch.randn(num_tokens, width))
        self.deep = deep_vectors(depth, image_tower.blocks, num_tokens, width, scale)
        if std is None:
            bound = math.sqrt(6 / (3 * image_tower.patch_size**2 + width))
            for tokens in self.parameters():
                nn.init.uniform_(tokens, -bound, bound)
        self.tokens()  # refuses a place that does not exist
        load_release(self, pretrained)

    def tokens(self) -> PromptTokens:
        """The tokens as the tower takes them."""
        return PromptTokens(self.first, tuple(self.deep), self.place, self.through_ln_pre)

    def prompt(
        self, images: Tensor, text: Tensor | None = None, plain: ImageFeatures | None = None
    ) -> tuple[Tensor, PromptTokens]:
        """Images as they are, and the tokens."""
        return images, self.tokens()

    def convert_release(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Also takes apart the tensors of several blocks.

        DPT has (L, M, C), MVLPT (1, M, C) and (L - 1, M, C), UPT (M * L, C) where row t is token t // L of block t % L.
        """
        tokens = weights.pop('by_block', None)
        if 'later_by_block' in weights:
            tokens = torch.cat([tokens, weights.pop('later_by_block')])
        if tokens is None and 'by_token' in weights:
            flat = weights.pop('by_token')
            tokens = flat.unflatten(0, (self.first.shape[0], -1)).transpose(0, 1)
        if tokens is not None:
            weights.update({'first': tokens[0], **{f'deep.{i}': t for i, t in enumerate(tokens[1:])}})
        return weights

    def describe_shapes(self) -> str:
        """Number and width of the tokens."""
        count, width = self.first.shape
        return f'This VPTPrompt has {count} tokens of {width} channels for each of {1 + len(self.deep)} blocks.'
