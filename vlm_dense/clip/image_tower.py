"""CLIP's two image towers, at any input size and with every feature that the methods ask for.

Both towers are ordinary backbones: ``forward`` returns a tuple of stage maps, so ``type='vlm_dense.CLIPViT'`` and
``type='vlm_dense.CLIPResNet'`` work in plain mmseg and mmdet configs. What a classifier, DenseCLIP or MaskCLIP needs
beyond that comes from :meth:`ImageTower.encode`, which computes the named features and nothing else.

State-dict keys are those of the published checkpoints (``visual.*`` without the prefix).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.logging import print_log
from mmengine.model import BaseModule
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.blocks import block_forward, project_qkv
from vlm_dense.clip.loading import load_clip
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

FEATURES = ('stages', 'global', 'dense', 'patch', 'value')


@dataclass
class ImageFeatures:
    """Features of a batch of images; what was not asked for is ``None``.

    Attributes:
        stages: Maps (B, C_i, h_i, w_i) of the chosen stages, finest first.
        global_: (B, D) CLIP's image feature, not normalised.
        dense: (B, D, h, w) every position sent through CLIP's own last projection, not normalised.
        patch: (B, C, h, w) last map before the projection.
        value: (B, D, h, w) positions through the value path of the last attention layer (MaskCLIP, section 3.2).
        key: (B, h*w, C) keys of that layer, for MaskCLIP's key smoothing. Comes with ``value``.
    """

    stages: tuple[Tensor, ...] | None = None
    global_: Tensor | None = None
    dense: Tensor | None = None
    patch: Tensor | None = None
    value: Tensor | None = None
    key: Tensor | None = None


@dataclass
class PromptTokens:
    """Prompt tokens for a ViT: what VPT, MaPLe, IVLP, UPT, DPT and MVLPT insert.

    A method whose tokens depend on the hidden states subclasses this and overrides :meth:`before_block` or
    :meth:`after_block`.

    Attributes:
        first: (M, C) or (B, M, C) tokens inserted before the first block.
        deep: Tokens that replace the inserted ones before blocks 1, 2, ...; each (M, C) or (B, M, C). After the last
            of them the tokens flow on.
        place: ``'end'`` (after the patches) or ``'front'`` (between class token and patches).
        through_ln_pre: Whether ``first`` passes the layer norm in front of the blocks.
    """

    first: Tensor
    deep: Sequence[Tensor] = field(default_factory=tuple)
    place: str = 'end'
    through_ln_pre: bool = True

    def __post_init__(self):
        if self.place not in ('end', 'front'):
            raise ConfigError(f"PromptTokens: place must be 'end' or 'front', found {self.place!r}.")

    @property
    def num_tokens(self) -> int:
        """M, the number of inserted tokens."""
        return self.first.shape[-2]

    @property
    def num_front(self) -> int:
        """Tokens between the class token and the patches."""
        return self.num_tokens if self.place == 'front' else 0

    def join(self, x: Tensor, tokens: Tensor, *, replace: bool = False) -> Tensor:
        """Insert ``tokens`` into ``x`` (B, L, C), or replace those inserted before."""
        tokens = tokens.to(x.dtype).expand(len(x), -1, -1)
        dropped = tokens.shape[1] if replace else 0
        if self.place == 'front':
            return torch.cat([x[:, :1], tokens, x[:, 1 + dropped :]], dim=1)
        return torch.cat([x[:, : x.shape[1] - dropped], tokens], dim=1)

    def before_block(self, index: int, x: Tensor) -> Tensor:
        """Hidden states (B, L, C) on their way into block ``index``."""
        if 1 <= index <= len(self.deep):
            return self.join(x, self.deep[index - 1], replace=True)
        return x

    def after_block(self, index: int, x: Tensor) -> Tensor:
        """Hidden states (B, L, C) that came out of block ``index``."""
        return x


def resize_positions(positions: Tensor, size: tuple[int, int], mode: str = 'bilinear') -> Tensor:
    """Resize the spatial part of a position table.

    Args:
        positions: (1 + S*S, C); row 0 belongs to the class or mean token and is kept.
        size: Wanted grid (h, w).
        mode: ``'bilinear'`` (DenseCLIP) or ``'bicubic'`` (MaskCLIP); align_corners is False.

    Returns:
        (1 + h*w, C).
    """
    side = math.isqrt(len(positions) - 1)
    if size == (side, side):
        return positions
    grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), size=size, mode=mode, align_corners=False).to(positions.dtype)
    return torch.cat([positions[:1], grid.flatten(2)[0].T])


class ImageTower(BaseModule):
    """What both towers share; see :class:`CLIPViT` and :class:`CLIPResNet`.

    Args:
        arch: open_clip model name, bundled name or open_clip model config, see
            :func:`vlm_dense.clip.loading.load_clip`.
        pretrained: Tag, ``'bundled'``, file path, or ``None`` for random weights.
        input_resolution: Image side whose position grid is stored; the loaded grid is resized to it once. Default:
            the side the model was trained with. Any input size works with any stored grid.
        out_indices: Which stages ``forward`` returns.
        frozen_stages: -1: nothing is frozen; 0: the stem; i: also the first i stages (ResNet) or blocks (ViT).
        norm_eval: Keep every BatchNorm in eval mode.
        with_cp: Recompute activations in the backward pass to save memory.
    """

    visual_type: type
    position_key: str

    def __init__(self, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self._register_load_state_dict_pre_hook(self._fit_positions)

    def _fit_positions(self, state_dict: dict, prefix: str, *args) -> None:
        """Resize the position grid of a checkpoint made for another input resolution."""
        key, own = prefix + self.position_key, dict(self.named_parameters()).get(self.position_key)
        found = state_dict.get(key)
        if own is None or found is None or found.shape == own.shape or found.shape[1:] != own.shape[1:]:
            return
        side, wanted = math.isqrt(len(found) - 1), math.isqrt(len(own) - 1)
        if side * side + 1 == len(found):
            print_log(f'{key}: {side} x {side} positions resized to {wanted} x {wanted}.', logger='current')
            state_dict[key] = resize_positions(found, (wanted, wanted))

    def _load(self, arch, pretrained, input_resolution) -> nn.Module:
        visual = load_clip(arch, pretrained, image_size=input_resolution).visual
        if type(visual) is not self.visual_type:
            other = {VisionTransformer: 'CLIPViT', ModifiedResNet: 'CLIPResNet'}.get(type(visual))
            hint = f"Use type='vlm_dense.{other}'." if other else 'Towers of other kinds are not supported.'
            raise ConfigError(
                f'{type(self).__name__}: the image tower of {arch!r} is a {type(visual).__name__}, expected a '
                f'{self.visual_type.__name__}. {hint}'
            )
        return visual

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Stage maps of a batch of normalised images (B, 3, H, W), finest first."""
        return self.encode(images, ('stages',)).stages

    def encode(self, images: Tensor, features: Sequence[str], prompts: PromptTokens | None = None) -> ImageFeatures:
        """Compute the named features of a batch of images.

        Args:
            images: (B, 3, H, W) normalised. Pixel prompts (VP) are added to the images before this call.
            features: Any of ``stages``, ``global``, ``dense``, ``patch``, ``value``.
            prompts: Prompt tokens; ViT only.

        Returns:
            :class:`ImageFeatures` with just these filled.

        Raises:
            ConfigError: an unknown feature, or prompt tokens for a ResNet.
        """
        unknown = set(features) - set(FEATURES)
        if unknown:
            raise ConfigError(f'Unknown image features {sorted(unknown)}; known are {list(FEATURES)}.')
        return self._encode(images, set(features), prompts)

    def _freeze(self, modules: Sequence[nn.Module | nn.Parameter]) -> None:
        for m in modules:
            m.requires_grad_(False)
            if isinstance(m, nn.Module):
                m.eval()

    def train(self, mode: bool = True):
        """Switch the mode; frozen stages, and with ``norm_eval`` every BatchNorm, stay in eval mode."""
        super().train(mode)
        if mode:
            self._freeze(self._frozen_modules())
            if self.norm_eval:
                for m in self.modules():
                    if isinstance(m, nn.modules.batchnorm._BatchNorm):
                        m.eval()
        return self


@MODELS.register_module()
class CLIPResNet(ImageTower):
    """CLIP's ModifiedResNet with its attention pool.

    Stage maps have strides 4, 8, 16, 32 and 4w, 8w, 16w, 32w channels (w = 64 for RN50).

    Args:
        arch, pretrained, input_resolution, frozen_stages, norm_eval, with_cp: See :class:`ImageTower`.
        out_indices: Stages to return, out of 0..3.
        norm_cfg: ``dict(type='SyncBN')`` turns every BatchNorm into one that is synchronised between processes.
        attnpool: Keep the attention pool. Without it (plain mm backbones that only need stage maps) its parameters do
            not exist, so distributed training has no unused parameters.
        attnpool_positions: ``'interpolate'`` resizes the stored grid to the map's size (DenseCLIP segmentation);
            ``'crop'`` takes its top left part (DenseCLIP detection).
    """

    visual_type = ModifiedResNet
    position_key = 'attnpool.positional_embedding'

    def __init__(
        self,
        arch: str | dict = 'RN50',
        pretrained: str | None = None,
        input_resolution: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        attnpool: bool = False,
        attnpool_positions: str = 'interpolate',
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if attnpool_positions not in ('interpolate', 'crop'):
            raise ConfigError(f"attnpool_positions must be 'interpolate' or 'crop', found {attnpool_positions!r}.")
        if not all(0 <= i <= 3 for i in out_indices) or not -1 <= frozen_stages <= 4:
            raise ConfigError(
                'CLIPResNet has stages 0..3: out_indices must lie in 0..3 and frozen_stages in -1..4, found '
                f'{tuple(out_indices)} and {frozen_stages}.'
            )
        visual = self._load(arch, pretrained, input_resolution)
        for name, module in visual.named_children():
            if name != 'attnpool' or attnpool:
                self.add_module(name, module)
        self.with_attnpool = attnpool
        self.embed_dim = visual.output_dim
        self.width = visual.attnpool.c_proj.in_features
        self.out_channels = [self.width // 8 * 2**i for i in range(4)]
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.attnpool_positions = attnpool_positions
        if norm_cfg and norm_cfg['type'] != 'BN':
            if norm_cfg['type'] != 'SyncBN':
                raise ConfigError(f"CLIPResNet: norm_cfg type must be 'BN' or 'SyncBN', found {norm_cfg['type']!r}.")
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        self._freeze(self._frozen_modules())

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]
        return stem + [getattr(self, f'layer{i}') for i in range(1, self.frozen_stages + 1)]

    def _stem(self, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            x = getattr(self, f'act{i}')(getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(x)))
        return self.avgpool(x)

    def _encode(self, images: Tensor, features: set[str], prompts: PromptTokens | None) -> ImageFeatures:
        if prompts is not None:
            raise ConfigError('CLIPResNet takes no prompt tokens; they exist for ViT towers only.')
        pooled = features & {'global', 'dense', 'value'}
        if pooled and not self.with_attnpool:
            raise ConfigError(f'CLIPResNet: {sorted(pooled)} need the attention pool; set attnpool=True.')
        x = self._stem(images)
        stages = []
        for i in range(4):
            for block in getattr(self, f'layer{i + 1}'):
                recompute = self.with_cp and torch.is_grad_enabled() and self.training
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            stages.append(x)
        out = ImageFeatures()
        if 'stages' in features:
            out.stages = tuple(stages[i] for i in self.out_indices)
        if 'patch' in features:
            out.patch = x
        if features & {'global', 'dense'}:
            tokens = self.attention_pool(x, all_tokens='dense' in features)
            out.global_ = tokens[:, 0]
            if 'dense' in features:
                out.dense = tokens[:, 1:].transpose(1, 2).unflatten(2, x.shape[2:])
        if 'value' in features:
            positions = x.flatten(2).transpose(1, 2)
            value = self.attnpool.c_proj(self.attnpool.v_proj(positions))
            out.value = value.transpose(1, 2).unflatten(2, x.shape[2:])
            out.key = self.attnpool.k_proj(positions)
        return out

    def pool_tokens(self, x: Tensor, positions: bool = True) -> Tensor:
        """Tokens that enter the attention pool: mean of all positions, then the positions.

        Args:
            x: (B, C, h, w) map of the last stage.
            positions: Add the position table (CLIP does).

        Returns:
            (B, 1 + h*w, C).
        """
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        return tokens + self._positions(x.shape[2:]).to(tokens.dtype) if positions else tokens

    def _positions(self, size: torch.Size) -> Tensor:
        table = self.attnpool.positional_embedding
        h, w = size
        if self.attnpool_positions == 'interpolate':
            return resize_positions(table, (h, w))
        side = math.isqrt(len(table) - 1)
        if h > side or w > side:
            raise ConfigError(
                f'The attention pool stores positions of a {side} x {side} grid (images up to {32 * side} px), found '
                f"a {h} x {w} map. Raise input_resolution or set attnpool_positions='interpolate'."
            )
        grid = table[1:].unflatten(0, (side, side))[:h, :w]
        return torch.cat([table[:1], grid.flatten(0, 1)])

    def attention_pool(self, x: Tensor, all_tokens: bool, positions: bool = True) -> Tensor:
        """CLIP's attention pool.

        Args:
            x: (B, C, h, w) map of the last stage.
            all_tokens: Every token is a query, not just the mean token.
            positions: Add the position table (CLIP does; MaskCLIP's ``attn_pooling`` does not).

        Returns:
            (B, 1 + h*w, D), or (B, 1, D) without ``all_tokens``. Row 0 is CLIP's image feature.
        """
        pool = self.attnpool
        tokens = self.pool_tokens(x, positions)
        queries = tokens if all_tokens else tokens[:, :1]
        q, k, v = (
            proj(t).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for proj, t in ((pool.q_proj, queries), (pool.k_proj, tokens), (pool.v_proj, tokens))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return pool.c_proj(mixed.transpose(1, 2).flatten(2))


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
    Images whose sides are no multiple of the patch are padded with zeros at the right and bottom.

    Args:
        arch, pretrained, input_resolution, norm_eval, with_cp: See :class:`ImageTower`.
        out_indices: Blocks whose outputs are returned. Default: four, evenly spaced, the last one included.
        frozen_stages: -1: nothing is frozen; 0: patch embedding, class token and positions; i: also the first i blocks.
        drop_path_rate: Stochastic depth, rising linearly from 0 at the first block to this at the last.
        pyramid: Build ``fpn1`` .. ``fpn4``; needs four ``out_indices`` and a patch of 8 or 16.
        norm_cfg: Norm of the pyramid, ``dict(type='BN')`` by default.
        head: Keep ``ln_post`` and ``proj``. Without them (plain mm backbones that only need stage maps) distributed
            training has no unused parameters.
        double_class_embedding: Add the class embedding to the class token twice, as DenseCLIP's official code does;
            its published numbers rest on it.
        act: ``'gelu'`` or ``'quick_gelu'`` instead of the activation that the weights were trained with. MaskCLIP's
            published numbers use ``'gelu'``.
        ln_eps: Epsilon of the layer norms instead of CLIP's 1e-5. MaskCLIP's published numbers use 1e-6.
        pos_mode: ``'bilinear'`` (DenseCLIP) or ``'bicubic'`` (MaskCLIP) resizing of the positions.
    """

    visual_type = VisionTransformer
    position_key = 'positional_embedding'

    def __init__(
        self,
        arch: str | dict = 'ViT-B-16',
        pretrained: str | None = None,
        input_resolution: int | None = None,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        pyramid: bool = False,
        norm_cfg: dict | None = None,
        head: bool = False,
        double_class_embedding: bool = False,
        act: str | None = None,
        ln_eps: float | None = None,
        pos_mode: str = 'bilinear',
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        visual = self._load(arch, pretrained, input_resolution)
        if visual.attn_pool is not None or visual.pool_type != 'tok' or visual.final_ln_after_pool:
            raise ConfigError(
                f'CLIPViT: {arch!r} does not read its image feature from the class token; such towers are not supported.'
            )
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.conv1, self.ln_pre, self.transformer = visual.conv1, visual.ln_pre, visual.transformer
        self.with_head = head
        if head:
            self.ln_post, self.proj = visual.ln_post, visual.proj
        self.embed_dim = visual.output_dim
        self.width = visual.conv1.out_channels
        self.patch_size = visual.conv1.kernel_size[0]
        depth = len(self.transformer.resblocks)
        if out_indices is None:
            out_indices = [(i + 1) * depth // 4 - 1 for i in range(4)] if depth >= 4 else range(depth)
        self.out_indices = tuple(out_indices)
        if not all(0 <= i < depth for i in self.out_indices) or not -1 <= frozen_stages <= depth:
            raise ConfigError(
                f'CLIPViT has {depth} blocks: out_indices must lie in 0..{depth - 1} and frozen_stages in -1..{depth}, '
                f'found {self.out_indices} and {frozen_stages}.'
            )
        self.out_channels = [self.width] * len(self.out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.double_class_embedding = double_class_embedding
        self.pos_mode = pos_mode
        rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.drop_paths = nn.ModuleList(DropPath(r) if r > 0 else nn.Identity() for r in rates)
        self.with_pyramid = pyramid
        if pyramid:
            if len(self.out_indices) != 4:
                raise ConfigError(f'CLIPViT: pyramid=True needs four out_indices, found {self.out_indices}.')
            for name, module in _pyramid(self.width, self.patch_size, norm_cfg or dict(type='BN')).items():
                self.add_module(name, module)
        self._override(act, ln_eps)
        self._freeze(self._frozen_modules())

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
        if self.frozen_stages < 0:
            return []
        stem = [self.conv1, self.class_embedding, self.positional_embedding, self.ln_pre]
        return stem + list(self.transformer.resblocks[: self.frozen_stages])

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Class token and patch tokens with positions, before ``ln_pre``: (B, 1 + h*w, C), and (h, w)."""
        p = self.patch_size
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % p, 0, -height % p))
        x = self.conv1(images)
        grid = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        cls = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([cls, x], dim=1) + resize_positions(self.positional_embedding, grid, self.pos_mode).to(x.dtype)
        if self.double_class_embedding:
            x = torch.cat([x[:, :1] + cls, x[:, 1:]], dim=1)
        return x, grid

    def _block(self, index: int, x: Tensor) -> Tensor:
        block, drop_path = self.transformer.resblocks[index], self.drop_paths[index]
        if self.with_cp and torch.is_grad_enabled() and self.training:
            return checkpoint(lambda t: block_forward(block, t, drop_path=drop_path), x, use_reentrant=False)
        return block_forward(block, x, drop_path=drop_path)

    def _encode(self, images: Tensor, features: set[str], prompts: PromptTokens | None) -> ImageFeatures:
        projected = features & {'global', 'dense', 'value'}
        if projected and not self.with_head:
            raise ConfigError(f'CLIPViT: {sorted(projected)} need the projection; set head=True.')
        x, grid = self.embed(images)
        if prompts is not None and prompts.through_ln_pre:
            x = prompts.join(x, prompts.first)
        x = self.ln_pre(x)
        if prompts is not None and not prompts.through_ln_pre:
            x = prompts.join(x, prompts.first)
        start = 1 + (prompts.num_front if prompts is not None else 0)

        def as_map(tokens: Tensor) -> Tensor:
            return tokens[:, start : start + grid[0] * grid[1]].transpose(1, 2).unflatten(2, grid)

        out = ImageFeatures()
        stages = []
        depth = len(self.transformer.resblocks)
        only_stages = features == {'stages'}
        for i in range(max(self.out_indices) + 1 if only_stages else depth):
            if prompts is not None:
                x = prompts.before_block(i, x)
            if i == depth - 1 and 'value' in features:
                out.value, out.key = self._value_path(x, as_map)
                if features == {'value'}:
                    return out
            x = self._block(i, x)
            if prompts is not None:
                x = prompts.after_block(i, x)
            if i in self.out_indices:
                stages.append(as_map(x))
        if 'stages' in features:
            if self.with_pyramid:
                stages = [getattr(self, f'fpn{i + 1}')(s) for i, s in enumerate(stages)]
            out.stages = tuple(stages)
        if 'patch' in features:
            out.patch = as_map(x)
        if 'dense' in features:
            x = self.ln_post(x) @ self.proj.to(x.dtype)
            out.global_, out.dense = x[:, 0], as_map(x)
        elif 'global' in features:
            out.global_ = self.ln_post(x[:, 0]) @ self.proj.to(x.dtype)
        return out

    def _value_path(self, x: Tensor, as_map) -> tuple[Tensor, Tensor]:
        """MaskCLIP, section 3.2: the last block with each token attending to itself only."""
        block = self.transformer.resblocks[-1]
        _, key, value = project_qkv(block.attn, block.ln_1(x))
        value = x + block.ls_1(block.attn.out_proj(value))
        value = value + block.ls_2(block.mlp(block.ln_2(value)))
        value = self.ln_post(value) @ self.proj.to(x.dtype)
        return as_map(value), as_map(block.attn.out_proj(key)).flatten(2).transpose(1, 2)


