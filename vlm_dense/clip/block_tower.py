"""Base of the image towers that are a stack of transformer blocks, open_clip's and timm's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens, checked_recomputation
from vlm_dense.clip.last_blocks import Classify, LastBlocks, Propose
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS


def _pyramid(width: int, patch_size: int, norm_cfg: dict) -> dict[str, nn.Module]:
    """DenseCLIP's fpn1..fpn4 out of the one resolution of a ViT: maps of strides p/4, p/2, p and 2p (p 8: to 4p)."""

    def up():
        return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

    def norm():
        return nn.GroupNorm(1, width)

    if patch_size in (14, 16):
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
    raise ConfigError(f'pyramid=True needs a patch size of 8, 14 or 16, found {patch_size}.')


class BlockTower(ImageTower):
    """Image tower that is a stack of transformer blocks over patches: it takes prompt tokens and dense attentions.

    A subclass has its weights under the names of the published checkpoints and says how tokens are made
    (:meth:`_tokens`), normed in front of the blocks (:meth:`_norm_pre`), pooled (:meth:`pool`) and projected
    (:meth:`project`).

    Attributes:
        blocks: The blocks, :class:`~vlm_dense.clip.blocks.TransformerBlock` each.
        width: C, channels of the tokens.
        patch_size: Stride of the patches in px.
        num_prefix: Class token and registers, in front of the patches.
        reads_class_token: The image feature is the projection of the first token.
        pools_by_attention: An attention pool is the last attention layer; ``value`` is then its value path, ``dense``.
    """

    takes_tokens = True
    num_prefix: int = 1
    reads_class_token: bool = True
    pools_by_attention: bool = False

    @property
    def blocks(self) -> Sequence[TransformerBlock]:  # noqa: D102
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """As in :class:`ImageTower`."""
        return self.patch_size

    def _tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int], dict[str, Any], list[Tensor]]:
        """Tokens (B, P + h*w, C) with positions, in front of the norm.

        Returns:
            Them, (h, w), options of each block's call, and maps of the stages in front of the blocks.
        """
        raise NotImplementedError

    def _norm_pre(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) behind the last block into the joint space, each by itself, (..., D); needs ``head=True``."""
        raise NotImplementedError

    def pool(self, tokens: Tensor) -> Tensor:
        """The image feature (B, D) of tokens (B, P + h*w, C) behind the last block, prompt tokens left out."""
        raise NotImplementedError

    def pool_keys(self, tokens: Tensor) -> Tensor:
        """Keys (..., C) of the attention pool, of tokens (..., C) behind the last block."""
        raise NotImplementedError

    # --- construction ---------------------------------------------------------------------------------------------

    def _choose_stages(self, depth: int, out_indices: Sequence[int] | None, frozen_stages: int, head: bool) -> None:
        """Set and check which blocks are returned and frozen; ``complete``: whether the last block is there."""
        self.with_head = head
        self.out_indices = quarters(depth) if out_indices is None else tuple(out_indices)
        if (
            not self.out_indices
            or not all(0 <= i < depth for i in self.out_indices)
            or not -1 <= frozen_stages <= depth
        ):
            raise ConfigError(
                f'{type(self).__name__} has {depth} blocks: out_indices must lie in 0..{depth - 1} and frozen_stages '
                f'in -1..{depth}, found {self.out_indices} and {frozen_stages}.'
            )
        self.frozen_stages = frozen_stages
        self.complete = head or max(self.out_indices) == depth - 1
        self.out_channels = [self.width] * len(self.out_indices)

    def _set_options(self, norm_eval: bool, with_cp: bool | str, remainder: str) -> None:
        self.norm_eval = norm_eval
        self.with_cp = checked_recomputation(with_cp)
        if remainder not in ('pad', 'drop'):
            raise ConfigError(f"{type(self).__name__}: remainder must be 'pad' or 'drop', found {remainder!r}.")
        self.remainder = remainder

    def _build_pyramid(self, pyramid: bool, norm_cfg: dict | None) -> None:
        self.with_pyramid = pyramid
        if pyramid:
            if len(self.out_indices) != 4:
                raise ConfigError(
                    f'{type(self).__name__}: pyramid=True needs four out_indices, found {self.out_indices}.'
                )
            for name, module in self._pyramid(norm_cfg or dict(type='BN')).items():
                self.add_module(name, module)

    def _pyramid(self, norm_cfg: dict) -> dict[str, nn.Module]:
        return _pyramid(self.width, self.patch_size, norm_cfg)

    def _build_dense(self, cfg: dict | None, depth: int) -> nn.Module | None:
        name = type(self).__name__
        if not self.with_head:
            if cfg is not None:
                raise ConfigError(
                    f'{name}: dense_attention gives the feature value, which needs the projection; set head=True.'
                )
            return None
        if cfg is None and self.pools_by_attention:
            return None
        part = MODELS.build(cfg or dict(type='vlm_dense.ValueAttention'))
        if part.num_blocks is None:
            part.num_blocks = depth
        part.take_colours(self.preprocessing.mean, self.preprocessing.std)
        own = depth - part.num_blocks
        wrong = [i for i in (*part.hidden_states, *part.attention_maps) if not 0 <= i < own]
        wrong = [i for i in wrong if i != -1 or i in part.attention_maps]  # -1: what enters the first block
        if own < 0 or wrong:
            raise ConfigError(
                f'{name} has {depth} blocks; {type(part).__name__} runs the last {part.num_blocks} of them and reads '
                f'those before, which must lie in 0..{own - 1}; found {wrong}. Choose a deeper architecture, or '
                'earlier blocks in the options of dense_attention.'
            )
        return part

    # --- forward --------------------------------------------------------------------------------------------------

    def _fit_patches(self, images: Tensor) -> Tensor:
        """Images with sides that are multiples of the patch, see ``remainder``."""
        p, (height, width) = self.patch_size, images.shape[2:]
        if self.remainder == 'pad':
            right, bottom = (width + p - 1) // p * p - width, (height + p - 1) // p * p - height
            return F.pad(images, (0, right, 0, bottom))
        if min(height, width) < p:
            raise ConfigError(
                f"{type(self).__name__}: remainder='drop' needs images of at least {p} x {p} px, the size of a patch; "
                f"found {height} x {width}. Enlarge them or use remainder='pad'."
            )
        return images[:, :, : height // p * p, : width // p * p]

    def _block(self, index: int, x: Tensor, **options) -> Tensor | tuple[Tensor, Tensor]:
        block = self.blocks[index]
        if self.with_cp is True and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False, **options)
        return block(x, light=self.with_cp == 'light' and torch.is_grad_enabled(), **options)

    def _for_prompts(self, options: dict[str, Any], prompts: PromptTokens, x: Tensor) -> dict[str, Any]:
        """Options of a block's call for tokens (B, L, C) with prompts among them."""
        return options

    def _bound(
        self, blocks: Sequence[TransformerBlock], options: dict[str, Any], plain: dict[str, Any]
    ) -> Sequence[TransformerBlock]:
        """Blocks that a part can call without the options, which are ``plain`` for tokens without prompts."""
        return blocks

    def encode(
        self,
        images: Tensor,
        features: Sequence[str],
        prompts: PromptTokens | None = None,
        classify: Classify | None = None,
        regions: Tensor | None = None,
        propose: Propose | None = None,
        value_stage: bool = False,
    ) -> ImageFeatures:
        """As :meth:`ImageTower.encode`.

        Args:
            classify: Features (B, D, h, w), not normalised -> logits (B, Q, h, w): the task's classifier, for a
                ``dense_attention`` that refines its features by a first labelling of them.
            regions: (B, H, W) labels of regions, int64, for a ``dense_attention`` that keeps them apart.
            propose: The task's proposals of masks, for a ``dense_attention`` that embeds them.
            value_stage: The stage map of the last block are the tokens of the feature ``value``, which must be asked
                for too (F-ViT). Of a tower with a pool by attention, which has no other ``value``, it is as ever.
        """
        own = dict(classify=classify, regions=regions, propose=propose, value_stage=value_stage)
        return super().encode(images, features, prompts, **own)

    def _encode(
        self,
        images: Tensor,
        features: set[str],
        prompts: PromptTokens | None,
        classify: Classify | None = None,
        regions: Tensor | None = None,
        propose: Propose | None = None,
        value_stage: bool = False,
    ) -> ImageFeatures:
        if 'regions' in features:
            raise ConfigError(
                f"{type(self).__name__} has no regions, which come from a ResNet's attention pool. Use CLIPResNet."
            )
        if 'pooled' in features:
            features = features | {'global'}
        projected = features & {'global', 'dense', 'value'}
        if projected and not self.with_head:
            raise ConfigError(f'{type(self).__name__}: {sorted(projected)} need the projection; set head=True.')
        if 'patch' in features and not self.complete:
            raise ConfigError(
                f'{type(self).__name__}: out_indices={self.out_indices} keeps {len(self.blocks)} blocks, so the '
                'feature patch, the last map, does not exist. Add the last block to out_indices, or set head=True.'
            )
        x, grid, options, early = self._tokens(images)
        if prompts is not None:
            prompts.num_prefix = self.num_prefix
            if prompts.through_ln_pre:
                x = prompts.join(x, prompts.first)
        x = self._norm_pre(x)
        if prompts is not None and not prompts.through_ln_pre:
            x = prompts.join(x, prompts.first)
        start = self.num_prefix + (prompts.num_front if prompts is not None else 0)
        patches = slice(start, start + grid[0] * grid[1])

        def as_map(tokens: Tensor) -> Tensor:
            return tokens[:, patches].transpose(1, 2).unflatten(2, grid)

        out = ImageFeatures()
        stages = {}
        depth = len(self.blocks)
        dense = self.dense_attention if 'value' in features else None
        last = None
        if dense is not None:
            last = LastBlocks(
                images,
                grid,
                self.patch_size,
                patches,
                self.project,
                classify,
                regions=regions,
                num_prefix=self.num_prefix,
                propose=propose,
                prompts=prompts,
            )
            if -1 in dense.hidden_states:
                last.hidden_states[-1] = x
        wanted = depth  # the last block with an output that is asked for
        if features == {'stages'} or dense is not None and features <= {'stages', 'value'}:
            wanted = max(self.out_indices) if 'stages' in features else -1
        value_stage = value_stage and dense is not None
        if value_stage:
            if depth - 1 not in self.out_indices:
                raise ConfigError(
                    f'{type(self).__name__}: value_stage replaces the map of the last block, which is not among '
                    f'out_indices={self.out_indices}. Add {depth - 1} to out_indices.'
                )
            if features <= {'stages', 'value'}:  # the last block itself is not needed
                wanted = max((i for i in self.out_indices if i < depth - 1), default=-1)
        plain = options
        for i in range(depth):
            if i > wanted and (dense is None or out.value is not None):
                break
            if prompts is not None:
                x = prompts.before_block(i, x)
                options = self._for_prompts(plain, prompts, x)
            if dense is not None and i == depth - dense.num_blocks:
                out.value, out.key, tokens = self._dense_features(last, x, prompts, options, plain)
                if value_stage:
                    if tokens is None or tokens.shape[2:] != grid:
                        raise ConfigError(
                            f'{type(self).__name__}: value_stage takes the tokens of {type(dense).__name__} for a '
                            'stage map, but it makes features of its own or on another grid than that of the patches. '
                            'Leave dense_attention out, or use one that keeps the patches.'
                        )
                    stages[depth - 1] = tokens
                if i > wanted:
                    break
            if dense is not None and i in dense.attention_maps:
                x, last.attention_maps[i] = self._block(i, x, return_weights=True, **options)
            else:
                x = self._block(i, x, **options)
            if prompts is not None:
                x = prompts.after_block(i, x)
            if dense is not None and i in dense.hidden_states:
                last.hidden_states[i] = x
            if i in self.out_indices:
                stages.setdefault(i, as_map(x))
        if 'stages' in features:
            out.stages = self._stages([stages[i] for i in self.out_indices], early)
        if 'patch' in features:
            out.patch = as_map(x)
        of_pool = 'value' in features and dense is None
        if 'global' in features and not (self.reads_class_token and 'dense' in features):
            out.global_ = self._pool_without_prompts(x, patches)
        if 'dense' in features or of_pool:
            # the class token goes along with the patches if it is the image feature
            projected = self.project(x if self.reads_class_token else x[:, patches])
            whole = projected[:, patches] if self.reads_class_token else projected
            out.dense = whole.transpose(1, 2).unflatten(2, grid)
            if self.reads_class_token:
                out.global_ = projected[:, 0]
        if of_pool:
            out.value, out.key = out.dense, self.pool_keys(x[:, patches])
            out.dense = out.dense if 'dense' in features else None
        out.pooled = out.global_ if 'pooled' in features else None
        return out

    def _stages(self, maps: list[Tensor], early: list[Tensor]) -> tuple[Tensor, ...]:
        if not self.with_pyramid:
            return tuple(maps)
        # contiguous: above frozen blocks, torch's GroupNorm on the CPU crashes in backward with other strides
        return tuple(getattr(self, f'fpn{i + 1}')(s.contiguous()) for i, s in enumerate(maps))

    def _pool_without_prompts(self, x: Tensor, patches: slice) -> Tensor:
        if self.reads_class_token:
            return self.project(x[:, 0])
        count = self.num_prefix + patches.stop - patches.start
        return self.pool(x if x.shape[1] == count else torch.cat([x[:, : self.num_prefix], x[:, patches]], dim=1))

    def _dense_features(
        self,
        last: LastBlocks,
        x: Tensor,
        prompts: PromptTokens | None,
        options: dict[str, Any],
        plain: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The map ``value`` (B, D, h, w), keys, and the map (B, C, h, w) that it was projected from, if any."""
        count, names = self.dense_attention.num_blocks, f'{type(self).__name__}: {type(self.dense_attention).__name__}'
        if prompts is not None and count > 1 and not self.dense_attention.takes_prompts:
            raise ConfigError(
                f'{names} runs the last {count} blocks itself, so prompt tokens '
                'that change between them cannot be inserted. Use it without prompt tokens, or with one block.'
            )
        if self.dense_attention.reads_classes and last.classify is None:
            raise ConfigError(
                f'{names} needs a first labelling of its features, so the feature value can '
                'only be asked for by a task that passes its classifier, encode(..., classify=...).'
            )
        if self.dense_attention.reads_regions and last.regions is None:
            raise ConfigError(
                f'{names} needs the regions of the images, so the feature value can only be asked for by a task that '
                'passes them, encode(..., regions=...).'
            )
        if self.dense_attention.reads_proposals and last.propose is None:
            raise ConfigError(
                f'{names} embeds proposals of masks, so the feature value can only be asked for by a task that makes '
                "them, encode(..., propose=...). Use it in type='vlm_dense.SAN'."
            )
        last.tokens, last.blocks = x, self._bound(list(self.blocks)[-count:], options, plain)
        last.first = len(self.blocks) - count
        found = self.dense_attention(last)
        value = self.project(found.tokens) if found.features is None else found.features
        tokens = None if found.tokens is None else found.tokens.transpose(1, 2).unflatten(2, found.grid)
        return value.transpose(1, 2).unflatten(2, found.grid), found.key, tokens


def quarters(depth: int) -> tuple[int, ...]:
    """The blocks after each quarter of the depth."""
    return tuple((i + 1) * depth // 4 - 1 for i in range(4)) if depth >= 4 else tuple(range(depth))
