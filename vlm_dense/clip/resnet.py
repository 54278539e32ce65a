"""CLIP's ModifiedResNet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from open_clip.model import CLIPVisionCfg
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.image_tower import (
    AttentionPooling,
    ImageFeatures,
    ImageTower,
    PromptTokens,
    checked_recomputation,
)
from vlm_dense.clip.loading import load_visual
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS


@contextlib.contextmanager
def _statistics_kept(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Leave the running statistics of batch norms as they are, while they normalise by those of the batch."""
    norms = [
        m
        for part in parts
        for m in part.modules()
        if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def _recomputed(function: Callable[[Tensor], Tensor], x: Tensor, parts: Sequence[nn.Module]) -> Tensor:
    """Output of ``parts`` for ``x``, recomputed in the backward pass; running statistics are updated only once."""
    if torch.compiler.is_compiling():  # what a graph recomputes has no such side effects
        return checkpoint(function, x, use_reentrant=False)
    contexts = contextlib.nullcontext(), _statistics_kept(parts)
    return checkpoint(function, x, use_reentrant=False, context_fn=lambda: contexts)


@MODELS.register_module()
class CLIPResNet(AttentionPooling, ImageTower):
    """CLIP's ModifiedResNet with its attention pool.

    Stage maps have strides 4, 8, 16, 32 and 4w, 8w, 16w, 32w channels (w = 64 for RN50).

    Args:
        arch, pretrained, input_resolution, frozen_stages, norm_eval, with_cp, frozen, image_prompt: See
            :class:`ImageTower`.
        out_indices: Stages to return, out of 0..3; with ``attnpool`` also 4, the positions behind the attention pool in
            the joint space, (B, D, h/32, w/32). Without ``attnpool`` the layers after the last of them do not exist, so
            that distributed training has no unused parameters; their weights in a checkpoint are ignored.
        norm_cfg: ``dict(type='SyncBN')`` turns every BatchNorm into one that is synchronised between processes.
        attnpool: Keep the attention pool. Without it (plain mm backbones that only need stage maps) its parameters do
            not exist, so distributed training has no unused parameters.
        attnpool_positions: ``'interpolate'`` resizes the stored grid to the map's size (DenseCLIP segmentation),
            ``'bicubic'`` does so as its name says (DualCoOp); ``'crop'`` takes its top left part (DenseCLIP detection).
        dense_attention: Refused, see :class:`~vlm_dense.clip.vit.CLIPViT`.

    Examples:
        >>> backbone = CLIPResNet('tiny-rn', out_indices=(1, 2))
        >>> [tuple(stage.shape) for stage in backbone(torch.randn(2, 3, 64, 96))]
        [(2, 192, 8, 12), (2, 384, 4, 6)]
        >>> tower = CLIPResNet('tiny-rn', attnpool=True)
        >>> features = tower.encode(torch.randn(2, 3, 64, 96), ('global', 'dense'))
        >>> features.global_.shape, features.dense.shape
        (torch.Size([2, 128]), torch.Size([2, 128, 2, 3]))
    """

    def __init__(
        self,
        arch: str | dict = 'RN50',
        pretrained: str | None = None,
        input_resolution: int | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        with_cp: bool | str = False,
        attnpool: bool = False,
        attnpool_positions: str = 'interpolate',
        dense_attention: None = None,
        frozen: bool = False,
        image_prompt: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if dense_attention is not None:
            raise ConfigError(
                f'{type(self).__name__} has no blocks for dense_attention={dense_attention} to take over. Use '
                "'vlm_dense.CLIPViT' with a ViT, or leave dense_attention out."
            )
        if attnpool_positions not in ('interpolate', 'bicubic', 'crop'):
            raise ConfigError(
                f"attnpool_positions must be 'interpolate', 'bicubic' or 'crop', found {attnpool_positions!r}."
            )
        if not out_indices or not all(0 <= i <= 3 + attnpool for i in out_indices) or not -1 <= frozen_stages <= 4:
            raise ConfigError(
                'CLIPResNet has stages 0..3, and 4 with attnpool=True: out_indices must be of these and frozen_stages '
                f'lie in -1..4, found {tuple(out_indices)} and {frozen_stages}.'
            )
        self._take_preprocessing(arch, pretrained)
        visual = load_visual(arch, pretrained, input_resolution, ModifiedResNet, type(self).__name__)
        self.with_attnpool = attnpool
        self.num_layers = 4 if attnpool else max(out_indices) + 1
        unused = [f'layer{i}' for i in range(self.num_layers + 1, 5)]
        self._dropped = tuple(f'{name}.' for name in unused)
        for name, module in visual.named_children():
            if name not in unused and (name != 'attnpool' or attnpool):
                self.add_module(name, module)
        self.embed_dim = visual.output_dim
        self.width = visual.attnpool.c_proj.in_features
        self.out_channels = [self.width // 8 * 2**i for i in range(4)] + [self.embed_dim] * (4 in out_indices)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = checked_recomputation(with_cp)
        if with_cp == 'light' and frozen_stages >= 0:
            raise ConfigError(
                f"CLIPResNet: with_cp='light' computes the stem again, but frozen_stages={frozen_stages} freezes it, "
                'so nothing of it is kept anyway. Leave with_cp out, or set with_cp=True for the blocks.'
            )
        self.attnpool_positions = attnpool_positions
        if norm_cfg and norm_cfg['type'] != 'BN':
            if norm_cfg['type'] != 'SyncBN':
                raise ConfigError(f"CLIPResNet: norm_cfg type must be 'BN' or 'SyncBN', found {norm_cfg['type']!r}.")
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        self._finish(frozen, image_prompt)
        layers = self.attnpool.children() if attnpool else ()
        if 4 not in out_indices and any(hasattr(layer, 'branches') for layer in layers):
            raise ConfigError(
                f'CLIPResNet: {image_prompt["type"]} updates the attention pool, which the stages {tuple(out_indices)} '
                'do not pass. Add 4, the map behind the pool, to out_indices, and give it to a head or neck.'
            )

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """As in :class:`ImageTower`; of all four stages."""
        width = CLIPVisionCfg(**model_config(cfg.get('arch', 'RN50'))['vision_cfg']).width
        return [width * 4 * 2**i for i in range(4)]

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen:
            return self._all_but()
        if self.frozen_stages < 0:
            return []
        return self._stem_parts() + [
            getattr(self, f'layer{i}') for i in range(1, min(self.frozen_stages, self.num_layers) + 1)
        ]

    def _stem_parts(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]

    def _stem(self, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            x = getattr(self, f'act{i}')(getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(x)))
        return self.avgpool(x)

    def embed_map(self, x: Tensor) -> Tensor:
        """Each place of a map like the last one (B, C, h, w) by the value path of the attention pool, (B, D, h, w)."""
        value = self.attnpool.c_proj(self.attnpool.v_proj(x.flatten(2).transpose(1, 2)))
        return value.transpose(1, 2).unflatten(2, x.shape[2:])

    def _encode(self, images: Tensor, features: set[str], prompts: PromptTokens | None) -> ImageFeatures:
        if prompts is not None:
            raise ConfigError('CLIPResNet takes no prompt tokens; they exist for ViT towers only.')
        behind_pool = 'stages' in features and 4 in self.out_indices
        pooled = features & {'global', 'dense', 'value', 'regions', 'pooled'}
        if pooled and not self.with_attnpool:
            raise ConfigError(f'CLIPResNet: {sorted(pooled)} need the attention pool; set attnpool=True.')
        if 'patch' in features and self.num_layers < 4:
            raise ConfigError(
                f'CLIPResNet: out_indices={self.out_indices} keeps {self.num_layers} of 4 layers, so the feature '
                'patch, the last map, does not exist. Add 3 to out_indices, or set attnpool=True.'
            )
        light = self.with_cp == 'light' and torch.is_grad_enabled()
        x = _recomputed(self._stem, images, self._stem_parts()) if light else self._stem(images)
        if self.num_layers == 4 and x.shape[0] == 1 and max(x.shape[2:]) <= 8 and self.layer4[-1].bn3.training:
            raise ConfigError(
                f'CLIPResNet: a training batch of one image of {tuple(images.shape[2:])} px leaves BatchNorm a single '
                'value a channel at stride 32. Use a larger batch or crop, or norm_eval=True.'
            )
        stages = []
        for i in range(min(max(self.out_indices), 3) + 1 if features == {'stages'} else 4):
            for block in getattr(self, f'layer{i + 1}'):
                x = _recomputed(block, x, [block]) if self.with_cp is True and torch.is_grad_enabled() else block(x)
            stages.append(x)
        out = ImageFeatures()
        if 'patch' in features:
            out.patch = x
        if features & {'global', 'dense'} or behind_pool:
            tokens = self.attention_pool(x, all_tokens='dense' in features or behind_pool)
            stages.append(tokens[:, 1:].transpose(1, 2).unflatten(2, x.shape[2:]) if tokens.shape[1] > 1 else None)
            out.global_ = tokens[:, 0] if features & {'global', 'dense'} else None
            out.dense = stages[4] if 'dense' in features else None
        if 'stages' in features:
            out.stages = tuple(stages[i] for i in self.out_indices)
        if 'pooled' in features:
            out.pooled = self.attention_pool(x, all_tokens=False, positions=False)[:, 0]
        if 'value' in features:
            out.value, out.key = self.embed_map(x), self.attnpool.k_proj(x.flatten(2).transpose(1, 2))
        if 'regions' in features:
            out.regions = self.attnpool.c_proj(self.attnpool.v_proj(self.pool_tokens(x)))
        return out
