"""DeCLIP: a ViT's last block is split into content, learned from crops, and context, learned from another backbone.

In CLIPSelf one feature has to name a region and to know how far it reaches, which pull in different directions. DeCLIP
takes the attention output of the last block as content, which learns from crops as in CLIPSelf, and its queries as
context, of which the similarities learn from those of a backbone without text, as DINO. That backbone is needed in
training only, and the tower that comes out is an ordinary CLIP tower that is run with the same last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.dense.affinity import Renormalise, colours_of, cosines
from vlm_dense.methods.dense.last_block import LastBlockAttention
from vlm_dense.methods.distillation.clipself import CLIPSelf
from vlm_dense.registry import MODELS

PAPER = dict(
    name='DeCLIP',
    title='DeCLIP: Decoupled Learning for Open-Vocabulary Dense Perception',
    venue='CVPR 2025',
    link='https://arxiv.org/abs/2505.04410',
    code='https://github.com/xiaomoguhz/DeCLIP',
    licence='Apache-2.0',
    idea=(
        'The attention output of the last block learns from crops what a region is, and its queries learn from another '
        'backbone which positions belong together.'
    ),
    contract='a second backbone; otherwise as clipself',
    published='CAT-Seg on EVA-02-CLIP B/16 in mode csa, mIoU: ADE20K 36.57 (847 classes: 15.20), PASCAL Context 60.89 '
    '(459 classes: 21.47), PASCAL VOC 96.68, with background 81.54',
    notes="""
A tower is run with the last block that it was trained with: `dense_attention=dict(type='vlm_dense.DeCLIPAttention',
mode='qq')` after the training here, `mode='csa'` for the released files; towers of EVA have `scaled=False`, and the map
is then not normalised (`unit_map=False` of `vlm_dense.DeCLIP`). `tower.pth` is written as by CLIPSelf:

```bash
python tools/train.py configs/declip/declip_shapes.py --work-dir work_dirs/declip
python tools/test.py configs/declip/declip-windows_tiny-vit_shapes.py \\
    --cfg-options model.backbone.pretrained=work_dirs/declip/tower.pth
```

The paper's figures for F-ViT are not repeated by any file of the release. Mode csa averages the similarities of queries
and of keys over all heads; the released main branch compares them head by head and runs for one image only. The
published training takes 4 GPUs with 4 images each and mixed precision (`--amp`).
""",
)

MODES = dict(qq=('qq',), kk=('kk',), csa=('qq', 'kk'))
"""Mode -> pairs of queries and keys of which the last block takes the sum of softmaxes."""


@MODELS.register_module()
class DeCLIPAttention(LastBlockAttention):
    """DeCLIP's last block: attention of queries with queries, without residual and MLP; its queries are the context.

    With ``mode='qq'`` the tokens are those of :class:`~vlm_dense.methods.dense.clearclip.ClearCLIPAttention`. The
    context is the feature ``key``, (B, h*w, C), raw queries or keys of all heads behind each other; of ``mode='csa'``
    the unit queries and the unit keys, (B, h*w, 2 C), so that cosines of it are the mean of both.

    "DeCLIP: Decoupled Learning for Open-Vocabulary Dense Perception", CVPR 2025, section 3.

    Args:
        mode: ``'qq'``, ``'kk'``, or ``'csa'``, the sum of both.
        scaled: Divide the scores by sqrt(d). The release does not in towers of EVA.
        rotary: Rotate queries and keys by their positions in towers that do so. The release does not.

    Raises:
        ConfigError: another mode.
    """

    gives_keys = True

    def __init__(self, mode: str = 'qq', scaled: bool = True, rotary: bool = False):
        if mode not in MODES:
            raise ConfigError(f'DeCLIPAttention: mode must be one of {list(MODES)}, found {mode!r}.')
        super().__init__(MODES[mode], residual=False, feed_forward=False)
        self.mode, self.scaled, self.rotary = mode, scaled, rotary

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the patches and their context."""
        tokens, context = last.blocks[-1](last.tokens, path=partial(self._both, last))
        return DenseTokens(tokens[:, last.patches], last.grid, context[:, last.patches])

    def run(self, block: TransformerBlock, x: Tensor, last: LastBlocks) -> Tensor:
        """The block's tokens alone, (B, L, C) -> (B, L, C)."""
        return self._both(last, block, x)[0]

    def _both(self, last: LastBlocks, block: TransformerBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (block if self.rotary else block.unrotated).qkv(x)
        parts = [dict(q=q, k=k)[pair[0]].transpose(1, 2).flatten(2) for pair in self.similarity]
        context = parts[0] if len(parts) == 1 else torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)
        if not self.scaled:  # the softmax divides by sqrt(d)
            q, k = (t * block.scale**-0.5 for t in (q, k))
        return block.scaled(block.output(self.mix(block, q, k, v, last))), context


@MODELS.register_module()
class DeCLIP(CLIPSelf):
    """CLIPSelf with a second teacher for which positions belong together.

    ``loss_content`` is CLIPSelf's, on the map of :class:`DeCLIPAttention`. With the cosines S of the context of all
    pairs of positions and T of the proxy's features,

        loss_context = weight * mean over images and rows of |T_row - S_row|_2

    Args:
        backbone: As of :class:`CLIPSelf`; its ``dense_attention`` is a ``vlm_dense.DeCLIPAttention``, the default.
        proxy: Config of the frozen second backbone: ``vlm_dense.ProxyViT``, or any backbone of the registries; its
            last map is taken. Its grid must be that of the backbone.
        content_weight, context_weight: Of the losses.
        mean, std: Of the proxy's input, of colours between 0 and 1; ``'own'``: those of a ``ProxyViT``.
        class_names, **options: As of :class:`CLIPSelf`.

    Raises:
        ConfigError: see :class:`CLIPSelf`; no proxy; another dense attention.
    """

    def __init__(
        self,
        backbone: dict,
        proxy: dict | None = None,
        content_weight: float = 1.0,
        context_weight: float = 0.1,
        mean: Sequence[float] | str = 'own',
        std: Sequence[float] | str = 'own',
        class_names: str | Sequence[str] | None = None,
        **options,
    ):
        if proxy is None:
            raise ConfigError(
                "DeCLIP has no second backbone to learn the context from: give proxy=dict(type='vlm_dense.ProxyViT', "
                "model='vit_base_patch14_reg4_dinov2.lvd142m', pretrained=True, positions='timm'), or use "
                'vlm_dense.CLIPSelf, which needs none.'
            )
        super().__init__(
            {'dense_attention': dict(type='vlm_dense.DeCLIPAttention'), **backbone},
            cosine_weight=content_weight,
            class_names=class_names,
            **options,
        )
        self.context_weight = context_weight
        self.proxy = MODELS.build(proxy).eval().requires_grad_(False)
        self.proxy_input = Renormalise(*colours_of(self.proxy, mean, std))
        preprocessor = self.data_preprocessor
        if getattr(preprocessor, '_enable_normalize', False):
            colours = ((t.flatten() / 255).tolist() for t in (preprocessor.mean, preprocessor.std))
            self.proxy_input.come_from(*colours)

    def _choose_trained(self, groups: int | None) -> None:
        part = self.backbone.dense_attention
        if not isinstance(part, DeCLIPAttention):
            raise ConfigError(
                f'DeCLIP learns the queries of vlm_dense.DeCLIPAttention; the backbone has a {type(part).__name__}. '
                'Leave dense_attention out of the backbone, or choose its mode.'
            )
        super()._choose_trained(groups)

    def _read(self, found: ImageFeatures) -> Tensor:
        return found.value.sum() + found.key.sum()

    def train(self, mode: bool = True) -> DeCLIP:
        """Switch the mode; the proxy stays in eval mode, too."""
        super().train(mode)
        self.proxy.eval()
        return self

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """``loss_content`` and ``loss_context`` of images (B, 3, H, W) and samples, see :class:`CLIPSelf`.

        Samples may have ``proxy`` (3, P, P), the image for the proxy; else the proxy sees the images.
        """
        found = self.student_features(inputs)
        content = self.cosine_weight * self.distance(found.value, inputs, data_samples)
        images = [sample.get('proxy') for sample in data_samples]
        images = inputs if any(image is None for image in images) else torch.stack(images)
        target = self.proxy_similarities(images, tuple(found.value.shape[2:]))
        distance = (target - cosines(found.key)).norm(dim=-1).mean()
        return dict(loss_content=content, loss_context=self.context_weight * distance)

    @torch.no_grad()
    def proxy_similarities(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cosines (B, N, N) of the proxy's features of images in the colours of the backbone's.

        Raises:
            DataError: its grid is not ``grid``.
        """
        maps = self.proxy(self.proxy_input(images))
        maps = maps[-1] if isinstance(maps, (tuple, list)) else maps
        if tuple(maps.shape[2:]) != grid:
            raise DataError(
                f'DeCLIP: the proxy, {type(self.proxy).__name__}, has a grid of {maps.shape[2]} x {maps.shape[3]}, the '
                f'backbone one of {grid[0]} x {grid[1]}. Set proxy_size of vlm_dense.PackRegions to image_size times '
                "the proxy's patch by the backbone's."
            )
        return cosines(maps.flatten(2).mT)
