"""CLIP's vision transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from open_clip.model import CLIPVisionCfg
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.block_tower import BlockTower, quarters
from vlm_dense.clip.blocks import Block, Blocks
from vlm_dense.clip.image_tower import POSITION_MODES, resize_positions
from vlm_dense.clip.loading import load_visual
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS


@MODELS.register_module()
class CLIPViT(BlockTower):
    """CLIP's vision transformer, and open_clip's others: CLIPA, which pools the mean, and CoCa, by attention.

    The stage maps are the patch tokens after the blocks ``out_indices``. With ``pyramid`` they become maps of strides
    4, 8, 16 and 32 as in DenseCLIP, so that FPN-style necks and heads apply; without it all have the patch's stride.

    Args:
        arch, pretrained, input_resolution, norm_eval, with_cp, frozen, image_prompt: See :class:`ImageTower`.
        out_indices: Indices of the blocks to return. Default: four, evenly spaced, the last one included. Without
            ``head`` the blocks after the last of them do not exist, so that distributed training has no unused
            parameters; their weights in a checkpoint are ignored.
        frozen_stages: -1: nothing is frozen; 0: patch embedding, class token and positions; i: also the first i blocks.
        drop_path_rate: Stochastic depth, rising linearly from 0 at the first block to this at the last.
        pyramid: Build ``fpn1`` .. ``fpn4``; needs four ``out_indices`` and a patch of 8, 14 or 16.
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
        return [vision.width] * len(cfg.get('out_indices') or quarters(vision.layers))

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
        self._take_preprocessing(arch, pretrained)
        visual = load_visual(arch, pretrained, input_resolution, VisionTransformer, type(self).__name__)
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.conv1, self.ln_pre, self.transformer = visual.conv1, visual.ln_pre, Blocks(visual.transformer)
        self.embed_dim = visual.output_dim
        self.width = visual.conv1.out_channels
        self.patch_size = visual.conv1.kernel_size[0]
        depth = len(self.transformer.resblocks)
        self._choose_stages(depth, out_indices, frozen_stages, head)
        self._take_pool(visual, arch)
        if not self.complete:
            kept = max(self.out_indices) + 1
            self._dropped = tuple(f'transformer.resblocks.{i}.' for i in range(kept, depth))
            self.transformer.resblocks = self.transformer.resblocks[:kept]
        self._set_options(norm_eval, with_cp, remainder)
        self.double_class_embedding = double_class_embedding
        if pos_mode not in POSITION_MODES:
            raise ConfigError(f'CLIPViT: pos_mode must be one of {list(POSITION_MODES)}, found {pos_mode!r}.')
        self.pos_mode = pos_mode
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.drop_paths = nn.ModuleList(DropPath(r) if r > 0 else nn.Identity() for r in rates)
        self._build_pyramid(pyramid, norm_cfg)
        self._override(act, ln_eps)
        self.dense_attention = self._build_dense(dense_attention, depth)  # its own norms keep their epsilon
        self._finish(frozen, image_prompt)

    def _take_pool(self, visual: VisionTransformer, arch: str | dict) -> None:
        """What makes the image feature: the class token, the mean of the patches (CLIPA) or a pool (CoCa)."""
        if visual.attn_pool is not None:
            if visual.attn_pool_contrastive is not None or visual.pool_type != 'tok':
                raise ConfigError(
                    f'CLIPViT: {arch!r} has an attention pool of a kind that no published weights have '
                    f'(attentional_pool={visual.attn_pool_type!r}, pool_type={visual.pool_type!r}). Expected '
                    "attentional_pool=True with pool_type='tok', as in 'coca_ViT-B-32'."
                )
            self.pools_by_attention, self.reads_class_token = True, False
            if self.with_head:
                self.attn_pool = visual.attn_pool
        elif visual.pool_type == 'avg' and visual.final_ln_after_pool:
            self.reads_class_token = False
        elif visual.pool_type != 'tok':
            raise ConfigError(
                f'CLIPViT: {arch!r} has pool_type={visual.pool_type!r} with the norm '
                f"{'behind' if visual.final_ln_after_pool else 'in front of'} the pool. Expected 'tok', as 'ViT-B-16' "
                "has it, or 'avg' with final_ln_after_pool, as 'ViT-L-14-CLIPA' has it."
            )
        if self.with_head:
            self.ln_post, self.proj = visual.ln_post, visual.proj

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks that are there."""
        return self.transformer.resblocks

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
        x = self.conv1(self._fit_patches(images))
        grid = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([cls, x], dim=1) + resize_positions(self.positional_embedding, grid, self.pos_mode).to(x.dtype)
        if self.double_class_embedding:
            x = torch.cat([x[:, :1] + cls, x[:, 1:]], dim=1)
        return x, grid

    def _tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int], dict[str, Any], list[Tensor]]:
        return *self.embed(images), {}, []

    def _norm_pre(self, x: Tensor) -> Tensor:
        return self.ln_pre(x)

    def _block(self, index: int, x: Tensor, **options) -> Tensor | tuple[Tensor, Tensor]:
        return super()._block(index, x, drop_path=self.drop_paths[index], **options)

    def project(self, tokens: Tensor) -> Tensor:
        """Last norm and projection of tokens, behind CoCa's pool of each alone: (..., C) -> (..., D); ``head=True``."""
        if self.pools_by_attention:  # the softmax over one key is 1, so that only its value is left
            attn = self.attn_pool.attn
            weight = attn.in_proj_weight.chunk(3)[2] if attn.v_proj_weight is None else attn.v_proj_weight
            value = F.linear(self.attn_pool.ln_k(tokens), weight, attn.in_proj_bias.chunk(3)[2])
            tokens = attn.out_proj(value)
        return self.ln_post(tokens) @ self.proj.to(tokens.dtype)

    def pool(self, tokens: Tensor) -> Tensor:
        """As in :class:`BlockTower`."""
        if self.pools_by_attention:
            pool, keys = self.attn_pool, self.attn_pool.ln_k(tokens)
            query = pool.ln_q(pool.query[:1]).expand(len(tokens), -1, -1)  # the others are for captions
            pooled = pool.attn(query, keys, keys, need_weights=False)[0][:, 0]
            return self.ln_post(pooled) @ self.proj.to(tokens.dtype)
        return self.project(tokens[:, 0] if self.reads_class_token else tokens[:, 1:].mean(dim=1))

    def pool_keys(self, tokens: Tensor) -> Tensor:
        """As in :class:`BlockTower`."""
        attn = self.attn_pool.attn
        weight = attn.in_proj_weight.chunk(3)[1] if attn.k_proj_weight is None else attn.k_proj_weight
        return F.linear(self.attn_pool.ln_k(tokens), weight, attn.in_proj_bias.chunk(3)[1])
