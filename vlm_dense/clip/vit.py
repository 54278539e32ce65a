"""CLIP's vision transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from open_clip.model import CLIPVisionCfg
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.blocks import Blocks
from vlm_dense.clip.image_tower import (
    POSITION_MODES,
    ImageFeatures,
    ImageTower,
    PromptTokens,
    checked_recomputation,
    resize_positions,
)
from vlm_dense.clip.last_blocks import Classify, LastBlocks
from vlm_dense.clip.loading import load_visual
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS


def _pyramid(width: int, patch_size: int, norm_cfg: dict) -> dict[str, nn.Module]:
    """DenseCLIP's fpn1..fpn4: maps of strides 4, 8, 16, 32 out of the one resolution of a ViT."""

    def up():
        return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

    def norm():
        return nn.GroupNorm(1, width)

    if patch_size == 16:
        bn = build_norm_layer(norm_cfg, width)[1]
        return dict(
            fpn1=nn.Sequential(norm(), up(), bn, nn.GELU(), up()),
            fpn2=nn.Sequential(norm(), up()),
            fpn3=norm(),
            fpn4=nn.Sequential(norm(), nn.MaxPool2d(2)),
        )
    if patch_size == 8:
        return dict(
            fpn1=nn.Sequential(norm(), up()),
            fpn2=norm(),
            fpn3=nn.Sequential(norm(), nn.MaxPool2d(2)),
            fpn4=nn.Sequential(norm(), nn.MaxPool2d(4)),
        )
    raise ConfigError(f'CLIPViT: pyramid=True needs a patch size of 8 or 16, found {patch_size}.')


@MODELS.register_module()
class CLIPViT(ImageTower):
    """CLIP's vision transformer.

    The stage maps are the patch tokens after the blocks ``out_indices``. With ``pyramid`` they become maps of strides
    4, 8, 16 and 32 as in DenseCLIP, so that FPN-style necks and heads apply; without it all have the patch's stride.

    Args:
        arch, pretrained, input_resolution, norm_eval, with_cp, frozen, image_prompt: See :class:`ImageTower`.
        out_indices: Indices of the blocks to return. Default: four, evenly spaced, the last one included. Without
            ``head`` the blocks after the last of them do not exist, so that distributed training has no unused
            parameters; their weights in a checkpoint are ignored.
        frozen_stages: -1: nothing is frozen; 0: patch embedding, class token and positions; i: also the first i blocks.
        drop_path_rate: Stochastic depth, rising linearly from 0 at the first block to this at the last.
        pyramid: Build ``fpn1`` .. ``fpn4``; needs four ``out_indices`` and a patch of 8 or 16.
        norm_cfg: Norm of the pyramid, ``dict(type='BN')`` by default.
        head: Keep ``ln_post`` and ``proj``. Without them (plain mm backbones that only need stage maps) distributed
            training has no unused parameters.
        double_class_embedding: Add the class embedding to the class token twice, as DenseCLIP's official code does;
            its published numbers depend on it.
        act: ``'gelu'`` or ``'quick_gelu'`` instead of the activation that the weights were trained with. MaskCLIP's
            published numbers use ``'gelu'``.
        ln_eps: Epsilon of the layer norms instead of CLIP's 1e-5. MaskCLIP's published numbers use 1e-6.
        pos_mode: Resizing of the positions: ``'bilinear'`` (DenseCLIP), ``'bicubic'`` (MaskCLIP),
            ``'bicubic_scaled'`` (SCLIP and its successors) or ``'dino'``, see
            :func:`vlm_dense.clip.image_tower.resize_positions`.
        remainder: Treatment of images with sides that are no multiple of the patch: ``'pad'`` adds zeros at the right
            and bottom, ``'drop'`` leaves out the rows and columns that fill no patch (SCLIP and its successors).
        dense_attention: Config of the part that makes the feature ``value`` out of the last blocks, see
            :class:`vlm_dense.contract.DenseAttention`; needs ``head``. Default: MaskCLIP's value path,
            ``dict(type='vlm_dense.ValueAttention')``.

    Examples:
        >>> backbone = CLIPViT('tiny-vit', out_indices=[1, 3])
        >>> [tuple(stage.shape) for stage in backbone(torch.randn(2, 3, 64, 96))]
        [(2, 128, 8, 12), (2, 128, 8, 12)]
        >>> tower = CLIPViT('tiny-vit', head=True)
        >>> features = tower.encode(torch.randn(2, 3, 64, 96), ('global', 'dense'))
        >>> features.global_.shape, features.dense.shape
        (torch.Size([2, 128]), torch.Size([2, 128, 8, 12]))
    """

    position_key = 'positional_embedding'

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """As in :class:`ImageTower`."""
        vision = CLIPVisionCfg(**model_config(cfg.get('arch', 'ViT-B-16'))['vision_cfg'])
        return [vision.width] * len(cfg.get('out_indices') or _quarters(vision.layers))

    def __init__(
        self,
        arch: str | dict = 'ViT-B-16',
        pretrained: str | None = None,
        input_resolution: int | None = None,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool | str = False,
        pyramid: bool = False,
        norm_cfg: dict | None = None,
        head: bool = False,
        double_class_embedding: bool = False,
        act: str | None = None,
        ln_eps: float | None = None,
        pos_mode: str = 'bilinear',
        remainder: str = 'pad',
        dense_attention: dict | None = None,
        frozen: bool = False,
        image_prompt: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        visual = load_visual(arch, pretrained, input_resolution, VisionTransformer, type(self).__name__)
        if visual.attn_pool is not None or visual.pool_type != 'tok' or visual.final_ln_after_pool:
            raise ConfigError(
                f'CLIPViT: {arch!r} does not read its image feature from the class token; such towers are unsupported.'
            )
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.conv1, self.ln_pre, self.transformer = visual.conv1, visual.ln_pre, Blocks(visual.transformer)
        self.with_head = head
        if head:
            self.ln_post, self.proj = visual.ln_post, visual.proj
        self.embed_dim = visual.output_dim
        self.width = visual.conv1.out_channels
        self.patch_size = visual.conv1.kernel_size[0]
        depth = len(self.transformer.resblocks)
        self.out_indices = _quarters(depth) if out_indices is None else tuple(out_indices)
        if (
            not self.out_indices
            or not all(0 <= i < depth for i in self.out_indices)
            or not -1 <= frozen_stages <= depth
        ):
            raise ConfigError(
                f'CLIPViT has {depth} blocks: out_indices must lie in 0..{depth - 1} and frozen_stages in -1..{depth}, '
                f'found {self.out_indices} and {frozen_stages}.'
            )
        self.complete = head or max(self.out_indices) == depth - 1
        if not self.complete:
            kept = max(self.out_indices) + 1
            self._dropped = tuple(f'transformer.resblocks.{i}.' for i in range(kept, depth))
            self.transformer.resblocks = self.transformer.resblocks[:kept]
        self.out_channels = [self.width] * len(self.out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = checked_recomputation(with_cp)
        self.double_class_embedding = double_class_embedding
        for name, value, known in (
            ('pos_mode', pos_mode, POSITION_MODES),
            ('remainder', remainder, ('pad', 'drop')),
        ):
            if value not in known:
                raise ConfigError(f'CLIPViT: {name} must be one of {list(known)}, found {value!r}.')
        self.pos_mode = pos_mode
        self.remainder = remainder
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.drop_paths = nn.ModuleList(DropPath(r) if r > 0 else nn.Identity() for r in rates)
        self.with_pyramid = pyramid
        if pyramid:
            if len(self.out_indices) != 4:
                raise ConfigError(f'CLIPViT: pyramid=True needs four out_indices, found {self.out_indices}.')
            for name, module in _pyramid(self.width, self.patch_size, norm_cfg or dict(type='BN')).items():
                self.add_module(name, module)
        self._override(act, ln_eps)
        self.dense_attention = self._build_dense(dense_attention, depth)  # its own norms keep their epsilon
        self._finish(frozen, image_prompt)

    def _build_dense(self, cfg: dict | None, depth: int) -> nn.Module | None:
        if not self.with_head:
            if cfg is not None:
                raise ConfigError(
                    'CLIPViT: dense_attention gives the feature value, which needs the projection; set head=True.'
                )
            return None
        part = MODELS.build(cfg or dict(type='vlm_dense.ValueAttention'))
        own = depth - part.num_blocks
        wrong = [i for i in (*part.hidden_states, *part.attention_maps) if not 0 <= i < own]
        if own < 0 or wrong:
            raise ConfigError(
                f'CLIPViT has {depth} blocks; {type(part).__name__} runs the last {part.num_blocks} of them and reads '
                f'those before, which must lie in 0..{own - 1}; found {wrong}. Choose a deeper architecture, or '
                'earlier blocks in the options of dense_attention.'
            )
        return part

    def _override(self, act: str | None, ln_eps: float | None) -> None:
        kinds = {'gelu': nn.GELU, 'quick_gelu': QuickGELU}
        if act is not None and act not in kinds:
            raise ConfigError(f'CLIPViT: act must be one of {list(kinds)}, found {act!r}.')
        for block in self.transformer.resblocks:
            if act is not None:
                block.mlp.gelu = kinds[act]()
        if ln_eps is not None:
            for m in self.modules():
                if isinstance(m, nn.LayerNorm):
                    m.eps = ln_eps

    def _frozen_modules(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen:
            return self._all_but('fpn1', 'fpn2', 'fpn3', 'fpn4')
        if self.frozen_stages < 0:
            return []
        stem = [self.conv1, self.class_embedding, self.positional_embedding, self.ln_pre]
        return stem + list(self.transformer.resblocks[: self.frozen_stages])

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Class token and patch tokens with positions, before ``ln_pre``: (B, 1 + h*w, C), and (h, w)."""
        p = self.patch_size
        height, width = images.shape[2:]
        if self.remainder == 'pad':
            right, bottom = (width + p - 1) // p * p - width, (height + p - 1) // p * p - height
            images = F.pad(images, (0, right, 0, bottom))
        elif min(height, width) < p:
            raise ConfigError(
                f"CLIPViT: remainder='drop' needs images of at least {p} x {p} px, the size of a patch; found "
                f"{height} x {width}. Enlarge them or use remainder='pad'."
            )
        x = self.conv1(images)
        grid = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([cls, x], dim=1) + resize_positions(self.positional_embedding, grid, self.pos_mode).to(x.dtype)
        if self.double_class_embedding:
            x = torch.cat([x[:, :1] + cls, x[:, 1:]], dim=1)
        return x, grid

    def _block(self, index: int, x: Tensor, **options) -> Tensor | tuple[Tensor, Tensor]:
        block, options['drop_path'] = self.transformer.resblocks[index], self.drop_paths[index]
        if self.with_cp is True and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False, **options)
        return block(x, light=self.with_cp == 'light' and torch.is_grad_enabled(), **options)

    def project(self, tokens: Tensor) -> Tensor:
        """CLIP's last norm and projection of tokens, (..., C) -> (..., D); needs ``head=True``."""
        return self.ln_post(tokens) @ self.proj.to(tokens.dtype)

    def encode(
        self,
        images: Tensor,
        features: Sequence[str],
        prompts: PromptTokens | None = None,
        classify: Classify | None = None,
    ) -> ImageFeatures:
        """As :meth:`ImageTower.encode`.

        Args:
            classify: Features (B, D, h, w), not normalised -> logits (B, Q, h, w): the task's classifier, for a
                ``dense_attention`` that refines its features by a first labelling of them.
        """
        return super().encode(images, features, prompts, classify=classify)

    def _encode(
        self,
        images: Tensor,
        features: set[str],
        prompts: PromptTokens | None,
        classify: Classify | None = None,
    ) -> ImageFeatures:
        if 'regions' in features:
            raise ConfigError("CLIPViT has no regions, which come from a ResNet's attention pool. Use CLIPResNet.")
        if 'pooled' in features:
            features = features | {'global'}
        projected = features & {'global', 'dense', 'value'}
        if projected and not self.with_head:
            raise ConfigError(f'CLIPViT: {sorted(projected)} need the projection; set head=True.')
        if 'patch' in features and not self.complete:
            raise ConfigError(
                f'CLIPViT: out_indices={self.out_indices} keeps {len(self.transformer.resblocks)} blocks, so the '
                'feature patch, the last map, does not exist. Add the last block to out_indices, or set head=True.'
            )
        x, grid = self.embed(images)
        if prompts is not None and prompts.through_ln_pre:
            x = prompts.join(x, prompts.first)
        x = self.ln_pre(x)
        if prompts is not None and not prompts.through_ln_pre:
            x = prompts.join(x, prompts.first)
        start = 1 + (prompts.num_front if prompts is not None else 0)
        patches = slice(start, start + grid[0] * grid[1])

        def as_map(tokens: Tensor) -> Tensor:
            return tokens[:, patches].transpose(1, 2).unflatten(2, grid)

        out = ImageFeatures()
        stages = {}
        depth = len(self.transformer.resblocks)
        dense = self.dense_attention if 'value' in features else None
        last = None
        if dense is not None:
            last = LastBlocks(images, grid, self.patch_size, patches, self.project, classify)
        only_stages = features == {'stages'}
        for i in range(max(self.out_indices) + 1 if only_stages else depth):
            if prompts is not None:
                x = prompts.before_block(i, x)
            if dense is not None and i == depth - dense.num_blocks:
                out.value, out.key = self._dense_features(last, x, prompts)
                if features == {'value'}:
                    return out
            if dense is not None and i in dense.attention_maps:
                x, last.attention_maps[i] = self._block(i, x, return_weights=True)
            else:
                x = self._block(i, x)
            if prompts is not None:
                x = prompts.after_block(i, x)
            if dense is not None and i in dense.hidden_states:
                last.hidden_states[i] = x
            if i in self.out_indices:
                stages[i] = as_map(x)
        if 'stages' in features:
            out.stages = tuple(stages[i] for i in self.out_indices)
            if self.with_pyramid:
                # contiguous: above frozen blocks, torch's GroupNorm on the CPU crashes in backward with other strides
                out.stages = tuple(getattr(self, f'fpn{i + 1}')(s.contiguous()) for i, s in enumerate(out.stages))
        if 'patch' in features:
            out.patch = as_map(x)
        if 'dense' in features:
            x = self.project(x)
            out.global_, out.dense = x[:, 0], as_map(x)
        elif 'global' in features:
            out.global_ = self.project(x[:, 0])
        out.pooled = out.global_ if 'pooled' in features else None
        return out

    def _dense_features(self, last: LastBlocks, x: Tensor, prompts) -> tuple[Tensor, Tensor | None]:
        count = self.dense_attention.num_blocks
        if prompts is not None and count > 1:
            raise ConfigError(
                f'CLIPViT: {type(self.dense_attention).__name__} runs the last {count} blocks itself, so prompt tokens '
                'that change between them cannot be inserted. Use it without prompt tokens, or with one block.'
            )
        if self.dense_attention.reads_classes and last.classify is None:
            raise ConfigError(
                f'CLIPViT: {type(self.dense_attention).__name__} needs a first labelling of its features, so the '
                'feature value can only be asked for by a task that passes its classifier, encode(..., classify=...).'
            )
        last.tokens, last.blocks = x, list(self.transformer.resblocks)[-count:]
        found = self.dense_attention(last)
        value = self.project(found.tokens).transpose(1, 2).unflatten(2, found.grid)
        return value, found.key


def _quarters(depth: int) -> tuple[int, ...]:
    """The blocks after each quarter of the depth."""
    return tuple((i + 1) * depth // 4 - 1 for i in range(4)) if depth >= 4 else tuple(range(depth))
