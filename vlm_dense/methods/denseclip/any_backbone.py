"""DenseCLIP's text guidance for backbones that never saw CLIP.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, its experiments with any visual
backbone. That part has no public code; what its authors answered to users is followed: a randomly initialised attention
pool after CLIP's on the last stage, and the text tower of a CLIP without its image tower.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from mmengine.model import BaseModule
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor

from vlm_dense.clip.image_tower import AttentionPooling, ImageFeatures, ImageTower, PromptTokens
from vlm_dense.clip.loading import check_fit, read_nested
from vlm_dense.errors import ConfigError, WeightsNotFoundError
from vlm_dense.registry import MODELS, unknown_name


@MODELS.register_module()
class PooledBackbone(AttentionPooling, ImageTower):
    """A backbone and a new attention pool that maps its last stage into CLIP's joint space.

    It takes the place of CLIP's image tower in ``vlm_dense.DenseCLIP`` and in the detectors. The pool's parameters are
    ``attnpool.*``, so ``'backbone.attnpool'`` in ``paramwise_cfg`` gives them a rate of their own.

    Args:
        backbone: Any module that maps images (B, 3, H, W) to its stages, finest first: mm backbones, timm's through
            ``mmseg.TIMMBackbone``, torchvision's through ``vlm_dense.TorchvisionBackbone``. Stages may be
            (B, C, h, w) or (B, h, w, C).
        channels: C of each stage.
        embed_dim: D of the text tower.
        input_resolution: Image side; positions are stored for its stride-32 map, other sizes are interpolated.
        heads: Of the pool; must divide the channels of the last stage. Not published: 32 is the default of the
            official code, and 64 channels a head are CLIP's rule.

    Raises:
        ConfigError: heads that do not divide the channels, or stages of other channels.
    """

    norm_eval = False

    def __init__(
        self,
        backbone: dict,
        channels: Sequence[int],
        embed_dim: int,
        input_resolution: int = 512,
        heads: int = 32,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if channels[-1] % heads:
            raise ConfigError(
                f'PooledBackbone: heads must divide the {channels[-1]} channels of the last stage, found {heads}.'
            )
        self.body = MODELS.build(backbone)
        self.attnpool = AttentionPool2d(max(input_resolution // 32, 1), channels[-1], heads, embed_dim)
        self.out_channels = list(channels)
        self.embed_dim = embed_dim

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """As in :class:`ImageTower`."""
        return list(cfg['channels'])

    def _frozen_modules(self) -> list:
        return []

    def _encode(self, images: Tensor, features: set[str], prompts: PromptTokens | None) -> ImageFeatures:
        unknown = features - {'stages', 'global', 'dense', 'patch'}
        if unknown or prompts is not None:
            what = sorted(unknown) if unknown else 'prompt tokens'
            raise ConfigError(f"PooledBackbone has no {what}: these are of CLIP's image towers.")
        stages = self._channels_first(self.body(images))
        last = stages[-1]
        out = ImageFeatures(
            stages=stages if 'stages' in features else None, patch=last if 'patch' in features else None
        )
        if features & {'global', 'dense'}:
            tokens = self.attention_pool(last, all_tokens='dense' in features)
            out.global_ = tokens[:, 0]
            if 'dense' in features:
                out.dense = tokens[:, 1:].transpose(1, 2).unflatten(2, last.shape[2:])
        return out

    def _channels_first(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        stages = tuple(stages.values() if isinstance(stages, Mapping) else stages)
        for axis in (1, -1):
            if [x.shape[axis] for x in stages] == self.out_channels:
                return stages if axis == 1 else tuple(x.permute(0, 3, 1, 2) for x in stages)
        raise ConfigError(
            f'PooledBackbone: channels={self.out_channels}, but {type(self.body).__name__} gave maps of '
            f'{[tuple(x.shape[1:]) for x in stages]}.'
        )


@MODELS.register_module()
class TorchvisionBackbone(BaseModule):
    """The stages of a classification model of torchvision.

    Args:
        model: Name, as ``'resnet18'`` or ``'swin_t'``.
        nodes: Names of the modules that end a stage: ``['layer1', ..., 'layer4']`` of a ResNet,
            ``['features.1', 'features.3', 'features.5', 'features.7']`` of a Swin or ConvNeXt.
        weights: A name of torchvision's, as ``'IMAGENET1K_V1'`` or ``'DEFAULT'``, which is downloaded once; the path of
            a ``.pth`` file; or ``None`` for random weights.

    Raises:
        ConfigError: unknown model, node or weights.
        WeightsNotFoundError: no such file, or no network.
    """

    def __init__(self, model: str, nodes: Sequence[str], weights: str | None = None, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            raise ConfigError(unknown_name(model, 'models of torchvision', known))
        is_file = weights is not None and weights.endswith(('.pth', '.pt'))
        net = torchvision.models.get_model(model, weights=None)
        if is_file:
            self._load_file(net, weights)
        elif weights is not None:
            self._download(net, model, weights)
        modules = dict(net.named_modules())
        for node in nodes:
            if node not in modules:
                raise ConfigError(unknown_name(node, f'modules of {model}', modules))
        self.net = create_feature_extractor(net, list(nodes))

    @staticmethod
    def _load_file(net: torch.nn.Module, path: str) -> None:
        if not os.path.isfile(path):
            raise WeightsNotFoundError(
                f"There are no weights at {os.path.abspath(path)}. Put torchvision's file there, or name weights that "
                "it downloads, as weights='DEFAULT'."
            )
        found = read_nested(path)
        check_fit(found, {k: v.shape for k, v in net.state_dict().items()}, path)
        net.load_state_dict(found)

    @staticmethod
    def _download(net: torch.nn.Module, model: str, weights: str) -> None:
        entries = torchvision.models.get_model_weights(model)
        if weights not in entries.__members__:
            raise ConfigError(unknown_name(weights, f'weights of {model} in torchvision', entries.__members__))
        try:
            net.load_state_dict(entries[weights].get_state_dict(progress=True))
        except URLError as error:
            raise WeightsNotFoundError(
                f'The weights {weights} of {model} cannot be downloaded from {entries[weights].url} ({error.reason}). '
                'Download that file elsewhere and give its path as weights.'
            ) from error

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Stages of images (B, 3, H, W): (B, C, h, w), of a Swin (B, h, w, C)."""
        return tuple(self.net(images).values())
