"""Image towers of open_clip that are timm's convolutional networks and other towers without plain blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from timm.models import convnext, fastvit, swin_transformer, vision_transformer_relpos
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.building import timm_trunk
from vlm_dense.clip.image_tower import ImageFeatures, ImageTower, PromptTokens, checked_recomputation
from vlm_dense.clip.loading import load_visual
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

FAMILIES = {
    convnext.ConvNeXt: 'ConvNeXt',
    fastvit.FastVit: 'FastViT (MobileCLIP)',
    swin_transformer.SwinTransformer: 'Swin Transformer',
    vision_transformer_relpos.VisionTransformerRelPos: 'ViT with relative positions',
}


@MODELS.register_module()
class CLIPTimmMaps(ImageTower):
    """A CLIP's image tower that makes maps, a model of timm: ConvNeXt, FastViT (MobileCLIP), Swin, relative positions.

    Stage maps are those of the trunk's stages. The image feature is the projection of the mean of the last map, and
    ``dense`` that of each place; with nothing that attends behind the map, MaskCLIP's ``value`` is the same. A Swin
    Transformer and a ViT with relative positions take images of the size that they were made for only.

    Args:
        arch, pretrained, norm_eval, frozen, image_prompt: See :class:`~vlm_dense.clip.image_tower.ImageTower`.
        input_resolution: Without effect on convolutions; a Swin Transformer and relative positions are set to it.
        out_indices: Stages to return; default: all. Without ``head`` those after the last of them do not exist.
        frozen_stages: -1: nothing is frozen; 0: the stem; i: also the first i stages.
        drop_path_rate: Stochastic depth, rising linearly from 0 to this at the last block.
        with_cp: Recompute the activations of the stages in the backward pass.
        head: Keep the last norm and projection.
        dense_attention: Refused, as there are no blocks to take over.
    """

    position_key = ''
    gives_keys = False
    """There is no attention of which MaskCLIP's key smoothing could have the keys."""

    def __init__(
        self,
        arch: str | dict,
        pretrained: str | None = None,
        input_resolution: int | None = None,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        head: bool = False,
        dense_attention: None = None,
        frozen: bool = False,
        image_prompt: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        owner = type(self).__name__
        self._take_preprocessing(arch, pretrained)
        visual = load_visual(arch, pretrained, input_resolution, TimmModel, owner, timm_drop_path=drop_path_rate)
        trunk = visual.trunk
        self.family = FAMILIES.get(type(trunk))
        if self.family is None:
            raise ConfigError(
                f'{owner}: {arch!r} has a {type(trunk).__name__}. Use '
                "type='vlm_dense.CLIPTower', which picks the implementation."
            )
        if dense_attention is not None:
            raise ConfigError(
                f'{owner}: a {self.family} has no blocks for dense_attention={dense_attention} to take over. Use a '
                "tower of blocks, such as 'ViT-B-16' or 'ViT-B-16-SigLIP2', or leave dense_attention out."
            )
        if checked_recomputation(with_cp) == 'light':
            raise ConfigError(f"{owner}: with_cp must be True or False for a {self.family}, found 'light'.")
        self.trunk = trunk
        self.embed_dim = visual.output_dim
        self.fixed_size = _fixed_size(trunk)
        depth = len(self.stages)
        self.width, self.stride = trunk.feature_info[-1]['num_chs'], trunk.feature_info[-1]['reduction']
        self.out_indices = tuple(range(depth)) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= i < depth for i in self.out_indices) or frozen_stages > depth:
            raise ConfigError(
                f'{owner}: {arch!r} has stages 0..{depth - 1}: out_indices must lie among them and frozen_stages in '
                f'-1..{depth}, found {self.out_indices} and {frozen_stages}.'
            )
        self.out_channels = _channels(trunk, self.out_indices)
        self.with_head = head
        self.complete = head or max(self.out_indices) == depth - 1
        if head:
            self.head = visual.head
        else:
            self._drop_head(depth)
        self.frozen_stages, self.norm_eval, self.with_cp = frozen_stages, norm_eval, with_cp
        self._finish(frozen, image_prompt)

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """As in :class:`ImageTower`."""
        with torch.device('meta'):
            trunk = timm_trunk(model_config(cfg['arch'])['vision_cfg']['timm_model_name'])
        return _channels(trunk, cfg.get('out_indices'))

    @property
    def stages(self) -> Sequence[nn.Module]:
        """The stages that are there."""
        trunk = self.trunk
        return trunk.stages if hasattr(trunk, 'stages') else trunk.layers if hasattr(trunk, 'layers') else trunk.blocks

    @property
    def description(self) -> str:
        """As in :class:`ImageTower`."""
        return f'{type(self).__name__} ({self.family})'

    def _drop_head(self, depth: int) -> None:
        """Take out what no stage needs, so that distributed training has no unused parameters."""
        trunk, kept = self.trunk, max(self.out_indices) + 1
        names = [name for name in ('norm', 'norm_pre', 'final_conv', 'fc_norm', 'head') if hasattr(trunk, name)]
        for name in names:
            setattr(trunk, name, nn.Identity())
        stages = next(name for name in ('stages', 'layers', 'blocks') if hasattr(trunk, name))
        setattr(trunk, stages, getattr(trunk, stages)[:kept])
        own = [*(f'trunk.{name}.' for name in names), *(f'trunk.{stages}.{i}.' for i in range(kept, depth))]
        self._dropped = (*own, 'head.')

    def _fit_positions(self, state_dict: dict, prefix: str, *args) -> None:
        pass  # none of these has a table of positions

    def _frozen_modules(self) -> list[nn.Module | nn.Parameter]:
        if self.frozen:
            return self._all_but()
        if self.frozen_stages < 0:
            return []
        stem = [getattr(self.trunk, name) for name in ('stem', 'patch_embed', 'cls_token') if hasattr(self.trunk, name)]
        return stem + list(self.stages[: self.frozen_stages])

    def _stem(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """What enters the first stage, and options of each stage's call."""
        trunk = self.trunk
        if hasattr(trunk, 'stem'):
            return trunk.stem(images), {}
        x = trunk.patch_embed(images)
        if not isinstance(trunk, vision_transformer_relpos.VisionTransformerRelPos):
            return x, {}
        if trunk.cls_token is not None:
            x = torch.cat([trunk.cls_token.expand(len(x), -1, -1), x], dim=1)
        shared = trunk.shared_rel_pos
        return x, dict(shared_rel_pos=None if shared is None else shared.get_bias())

    def _as_map(self, x: Tensor) -> Tensor:
        """(B, C, h, w) of what a stage gives."""
        trunk = self.trunk
        if hasattr(trunk, 'stages'):
            return x
        if hasattr(trunk, 'layers'):  # channels last
            return x.permute(0, 3, 1, 2)
        return x[:, trunk.num_prefix_tokens :].mT.unflatten(2, trunk.patch_embed.grid_size)

    def _check_size(self, images: Tensor) -> None:
        size = tuple(images.shape[2:])
        if self.fixed_size is not None and size != self.fixed_size:
            raise ConfigError(
                f'{type(self).__name__}: a {self.family} takes images of {self.fixed_size[0]} x {self.fixed_size[1]} '
                f'px only, found {size[0]} x {size[1]}. Resize them, set input_resolution to the side of the images, '
                "or use a tower for any size, such as 'convnext_base' or 'ViT-B-16'."
            )

    def _encode(self, images: Tensor, features: set[str], prompts: PromptTokens | None) -> ImageFeatures:
        owner = type(self).__name__
        if prompts is not None:
            raise ConfigError(
                f'{owner}: a {self.family} takes no prompt tokens. Use pixels (vlm_dense.VPPrompt), or a tower of '
                "blocks, such as 'ViT-B-16' or 'ViT-B-16-SigLIP2'."
            )
        if 'regions' in features:
            raise ConfigError(
                f"{owner} has no regions, which come from a ResNet's attention pool. Use CLIPResNet, with 'RN50'."
            )
        if 'pooled' in features:
            features = features | {'global'}
        projected = features & {'global', 'dense', 'value'}
        if projected and not self.with_head:
            raise ConfigError(f'{owner}: {sorted(projected)} need the projection; set head=True.')
        if 'patch' in features and not self.complete:
            raise ConfigError(
                f'{owner}: out_indices={self.out_indices} keeps {len(self.stages)} stages, so the feature patch, the '
                'last map, does not exist. Add the last stage to out_indices, or set head=True.'
            )
        self._check_size(images)
        x, options = self._stem(images)
        maps = []
        for stage in self.stages[: max(self.out_indices) + 1 if features == {'stages'} else None]:
            recompute = self.with_cp and torch.is_grad_enabled()
            x = checkpoint(stage, x, use_reentrant=False, **options) if recompute else stage(x, **options)
            maps.append(x)
        out = ImageFeatures()
        if 'stages' in features:
            out.stages = tuple(self._as_map(maps[i]) for i in self.out_indices)
        if features == {'stages'}:
            return out
        x = self._last(x)
        if 'patch' in features:
            out.patch = self._as_map(x)
        if 'global' in features:
            out.global_ = self.head(self.trunk.forward_head(x))
        if features & {'dense', 'value'}:
            dense = self.embed_map(x)
            out.dense = dense if 'dense' in features else None
            out.value = dense if 'value' in features else None
        out.pooled = out.global_ if 'pooled' in features else None
        return out

    def _last(self, x: Tensor) -> Tensor:
        """The last map, as the trunk's ``forward_features`` gives it."""
        trunk = self.trunk
        if isinstance(trunk, fastvit.FastVit):
            return trunk.final_conv(x)
        return trunk.norm_pre(x) if isinstance(trunk, convnext.ConvNeXt) else trunk.norm(x)

    def embed_map(self, x: Tensor) -> Tensor:
        """Each place of a map like the last one, in the form of the trunk, in the joint space (B, D, h, w)."""
        trunk = self.trunk
        if isinstance(trunk, convnext.ConvNeXt):  # its norm is over the channels of each place
            x = trunk.head.norm(x)
        if isinstance(trunk, vision_transformer_relpos.VisionTransformerRelPos):
            x = trunk.fc_norm(x)
        places = self._as_map(x).permute(0, 2, 3, 1)
        last = trunk.head if isinstance(trunk.head, (nn.Linear, nn.Identity)) else trunk.head.fc
        return self.head(last(places)).permute(0, 3, 1, 2)


def _channels(trunk: nn.Module, stages: Sequence[int] | None) -> list[int]:
    found = [info['num_chs'] for info in trunk.feature_info]
    return found if stages is None else [found[i] for i in stages]


def _fixed_size(trunk: nn.Module) -> tuple[int, int] | None:
    if isinstance(trunk, (convnext.ConvNeXt, fastvit.FastVit)):
        return None
    return tuple(trunk.patch_embed.img_size)
