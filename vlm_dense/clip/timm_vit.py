"""Image towers of open_clip that are vision transformers of timm: SigLIP, PE-Core, EVA, ViTamin, MobileCLIP's ViTs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.block_tower import BlockTower, quarters
from vlm_dense.clip.building import timm_trunk
from vlm_dense.clip.image_tower import PromptTokens, resize_positions
from vlm_dense.clip.loading import load_visual
from vlm_dense.clip.timm_blocks import BoundBlock, TimmBlock, adopt
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

_HEAD = ('trunk.norm.', 'trunk.attn_pool.', 'trunk.fc_norm.', 'trunk.head.', 'head.')


@MODELS.register_module()
class CLIPTimmViT(BlockTower):
    """A CLIP's image tower of blocks that is a model of timm.

    The trunk does the arithmetic, with positions of its own kind for each image size: tables resized bicubically with
    antialias, rotary positions scaled to the grid. State-dict keys are open_clip's, ``trunk.*`` and ``head.*``.

    Args:
        arch, pretrained, norm_eval, with_cp, frozen, image_prompt: See
            :class:`~vlm_dense.clip.image_tower.ImageTower`.
        input_resolution: Image side of the stored table of positions, to which the loaded one is resized once. It is
            not needed: images of any size get positions of their own.
        out_indices: Indices of the blocks to return, as in :class:`~vlm_dense.clip.vit.CLIPViT`.
        frozen_stages: -1: nothing is frozen; 0: what is in front of the blocks; i: also the first i blocks.
        drop_path_rate: Stochastic depth, rising linearly from 0 at the first block to this at the last.
        pyramid: Maps of strides p/4, p/2, p and 2p, as in :class:`~vlm_dense.clip.vit.CLIPViT`; of a ViTamin the maps
            of its convolutions, strides 4 and 8, the last block's and that pooled, without parameters.
        norm_cfg: Norm of the pyramid, ``dict(type='BN')`` by default.
        head: Keep the last norm, pool and projection.
        remainder: Treatment of images with sides that are no multiple of the patch: ``'drop'``, as timm does and some
            weights were trained with (SO400M-14 at 384 px), or ``'pad'``, as in :class:`~vlm_dense.clip.vit.CLIPViT`.
        pos_mode: Resizing of the table of positions: ``'timm'``, bicubic with antialias, or ``'bicubic'`` without
            (CLIPSelf and F-ViT), for towers with one class token in the table.
        dense_attention: Config of the part that makes the feature ``value`` out of the last blocks, see
            :class:`vlm_dense.contract.DenseAttention`; needs ``head``. Default: MaskCLIP's value path of the last
            attention layer. Where that is the pool (SigLIP, PE-Core), ``value`` is the pool's value path, which is the
            feature ``dense``; ``dict(type='vlm_dense.ValueAttention')`` takes that of the last block in front of it.
    """

    position_key = 'trunk.pos_embed'

    def __init__(
        self,
        arch: str | dict,
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
        remainder: str = 'drop',
        pos_mode: str = 'timm',
        dense_attention: dict | None = None,
        frozen: bool = False,
        image_prompt: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self._take_preprocessing(arch, pretrained)
        visual = load_visual(
            arch, pretrained, input_resolution, TimmModel, type(self).__name__, timm_drop_path=drop_path_rate
        )
        trunk = self.trunk = visual.trunk
        if not hasattr(trunk, '_pos_embed') or not hasattr(trunk, 'blocks'):
            raise ConfigError(
                f'{type(self).__name__}: {arch!r} has a {type(trunk).__name__}, which is no tower of plain blocks. Use '
                "type='vlm_dense.CLIPTower', which picks the implementation."
            )
        for block in trunk.blocks:
            adopt(block)
        depth = len(trunk.blocks)
        self.num_prefix = trunk.num_prefix_tokens
        self.reads_class_token = trunk.attn_pool is None and trunk.global_pool == 'token'
        self.pools_by_attention = trunk.attn_pool is not None
        self.width, self.embed_dim = trunk.embed_dim, visual.output_dim
        self.patch_size = trunk.feature_info[0]['reduction']
        self._choose_stages(depth, out_indices, frozen_stages, head)
        if head:
            self.head = visual.head
        else:
            self._dropped += _HEAD
            for name in ('norm', 'attn_pool', 'fc_norm', 'head_drop', 'head'):
                if isinstance(getattr(trunk, name), nn.Module):
                    setattr(trunk, name, nn.Identity())
        if not self.complete:
            kept = max(self.out_indices) + 1
            self._dropped += tuple(f'trunk.blocks.{i}.' for i in range(kept, depth))
            trunk.blocks = trunk.blocks[:kept]
        self._set_options(norm_eval, with_cp, remainder)
        self.pos_mode = self._checked_positions(pos_mode)
        self._build_pyramid(pyramid, norm_cfg)
        self.dense_attention = self._build_dense(dense_attention, depth)
        self._finish(frozen, image_prompt)

    def _checked_positions(self, pos_mode: str) -> str:
        if pos_mode not in ('timm', 'bicubic'):
            raise ConfigError(f"{type(self).__name__}: pos_mode must be 'timm' or 'bicubic', found {pos_mode!r}.")
        trunk = self.trunk
        plain = self.num_prefix == 1 and trunk.pos_embed is not None and not trunk.no_embed_class
        if pos_mode == 'bicubic' and not plain:
            raise ConfigError(
                f"{type(self).__name__}: pos_mode='bicubic' is for towers with a table of positions that begins with "
                "that of one class token, as 'EVA02-B-16'; use 'timm'."
            )
        return pos_mode

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """As in :class:`~vlm_dense.clip.image_tower.ImageTower`."""
        with torch.device('meta'):
            trunk = timm_trunk(model_config(cfg['arch'])['vision_cfg']['timm_model_name'])
        if (
            cfg.get('pyramid')
            and hasattr(trunk.patch_embed, 'backbone')
            and hasattr(trunk.patch_embed.backbone, 'stages')
        ):
            return [*_stem_channels(trunk), trunk.embed_dim, trunk.embed_dim]
        return [trunk.embed_dim] * len(cfg.get('out_indices') or quarters(len(trunk.blocks)))

    @property
    def blocks(self) -> Sequence[TimmBlock]:
        """The blocks that are there."""
        return self.trunk.blocks

    def _frozen_modules(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen:
            return self._all_but('fpn1', 'fpn2', 'fpn3', 'fpn4')
        if self.frozen_stages < 0:
            return []
        trunk = self.trunk
        tables = [getattr(trunk, name, None) for name in ('cls_token', 'reg_token', 'pos_embed')]
        stem = [trunk.patch_embed, trunk.norm_pre, *(table for table in tables if table is not None)]
        return stem + list(trunk.blocks[: self.frozen_stages])

    def _fit_positions(self, state_dict: dict, prefix: str, *args) -> None:
        key = prefix + self.position_key
        trunk, found = self._modules.get('trunk'), state_dict.get(key)
        own = getattr(trunk, 'pos_embed', None)
        if own is None or found is None or found.shape == own.shape or found.shape[-1] != own.shape[-1]:
            return
        fixed = 0 if trunk.no_embed_class else self.num_prefix
        state_dict[key] = resample_abs_pos_embed(found, trunk.patch_embed.grid_size, num_prefix_tokens=fixed)

    # --- pyramid of a ViTamin -------------------------------------------------------------------------------------

    @property
    def _has_stem_maps(self) -> bool:
        return hasattr(getattr(self.trunk.patch_embed, 'backbone', None), 'stages')

    def _pyramid(self, norm_cfg: dict) -> dict[str, nn.Module]:
        if not self._has_stem_maps:
            return super()._pyramid(norm_cfg)
        self.out_channels = [*_stem_channels(self.trunk), self.width, self.width]
        return dict(fpn3=nn.Identity(), fpn4=nn.MaxPool2d(2))

    def _stages(self, maps: list[Tensor], early: list[Tensor]) -> tuple[Tensor, ...]:
        if not (self.with_pyramid and self._has_stem_maps):
            return super()._stages(maps, early)
        return *early, self.fpn3(maps[-1]), self.fpn4(maps[-1])

    # --- forward --------------------------------------------------------------------------------------------------

    def _tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int], dict[str, Any], list[Tensor]]:
        images, trunk, early = self._fit_patches(images), self.trunk, []
        if self._has_stem_maps:
            backbone = trunk.patch_embed.backbone
            x = backbone.stem(images)
            for stage in backbone.stages:
                x = stage(x)
                early.append(x)
            x = trunk.patch_embed.proj(backbone.pool(x)).permute(0, 2, 3, 1)
        else:
            x = trunk.patch_embed(images)
        grid = x.shape[1], x.shape[2]
        x, rope = self._with_positions(x)
        return x, grid, {} if rope is None else dict(rope=rope), early

    def _with_positions(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, P + h*w, C) of patches (B, h, w, C), prefix in front; and the rotation of the patches, if any."""
        trunk = self.trunk
        if self.pos_mode == 'bicubic':
            grid, x = tuple(x.shape[1:3]), torch.cat([trunk.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
            x = trunk.pos_drop(x + resize_positions(trunk.pos_embed[0], grid, 'bicubic').to(x.dtype))
            return x, None if getattr(trunk, 'rope', None) is None else trunk.rope.get_embed(shape=list(grid))
        found = trunk._pos_embed(x)  # timm has no public name for it
        return found if isinstance(found, tuple) else (found, None)

    def _norm_pre(self, x: Tensor) -> Tensor:
        return self.trunk.norm_pre(x)

    def _for_prompts(self, options: dict[str, Any], prompts: PromptTokens, x: Tensor) -> dict[str, Any]:
        """Rotary positions that leave the prompt tokens as they are: sines of 0 and cosines of 1."""
        rope = options.get('rope')
        if rope is None:
            return options
        still = rope.new_zeros(x.shape[1] - self.num_prefix - len(rope), rope.shape[-1])
        still[:, rope.shape[-1] // 2 :] = 1
        return dict(options, rope=torch.cat([still, rope] if prompts.place == 'front' else [rope, still]))

    def _bound(
        self, blocks: Sequence[TimmBlock], options: dict[str, Any], plain: dict[str, Any]
    ) -> Sequence[TimmBlock | BoundBlock]:
        if 'rope' not in options:
            return blocks
        return [BoundBlock(block, options['rope'], plain['rope']) for block in blocks]

    def _pool_alone(self, tokens: Tensor) -> Tensor:
        """timm's attention pool of each token alone: the softmax over one key is 1, so that only its value is left."""
        pool = self.trunk.attn_pool
        width = pool.kv.out_features // 2
        x = pool.proj(F.linear(tokens, pool.kv.weight[width:], pool.kv.bias[width:]))
        return x if pool.mlp is None else x + pool.mlp(pool.norm(x))

    def project(self, tokens: Tensor) -> Tensor:
        """As in :class:`BlockTower`."""
        trunk = self.trunk
        x = trunk.norm(tokens)
        if self.pools_by_attention:
            x = self._pool_alone(x)
        return self.head(trunk.head(trunk.fc_norm(x)))

    def pool(self, tokens: Tensor) -> Tensor:
        """As in :class:`BlockTower`; timm's own pool and heads."""
        return self.head(self.trunk.forward_head(self.trunk.norm(tokens)))

    def pool_keys(self, tokens: Tensor) -> Tensor:
        """As in :class:`BlockTower`."""
        pool = self.trunk.attn_pool
        width = pool.kv.out_features // 2
        return F.linear(self.trunk.norm(tokens), pool.kv.weight[:width], pool.kv.bias[:width])


def _stem_channels(trunk: nn.Module) -> list[int]:
    return [stage[-1].out_chs for stage in trunk.patch_embed.backbone.stages]
