"""CLIP's image towers as MaskCLIP uses them.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.fit import check_fit
from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.preprocessing import Preprocessing
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.errors import ConfigError
from vlm_dense.methods.maskclip.release import published_tower
from vlm_dense.registry import MODELS


class _MaskCLIPTower(ImageTower):
    """Frozen tower with a ``forward`` that returns :class:`ImageFeatures` with ``value`` and ``key``.

    With it any mmseg segmentor takes ``vlm_dense.MaskCLIPHead`` as decode head.
    """

    published_colours = True
    """The releases of MaskCLIP and LPOSS normalise otherwise than the weights were trained with."""

    def _take_preprocessing(self, arch: str | dict, pretrained: str | None) -> None:
        self.preprocessing = Preprocessing.of_openai(arch)

    def _take(self, features: Sequence[str], pretrained: str | None, visual_projs_path: str | None) -> None:
        if self.image_prompt is not None:
            raise ConfigError(
                f"{type(self).__name__} is frozen whole: give image_prompt to the model, 'vlm_dense.MaskCLIP'."
            )
        self.features = tuple(features)
        self.without_positions = False
        if visual_projs_path is not None:
            if pretrained is None:
                raise ConfigError(
                    f'{type(self).__name__}: visual_projs_path holds the projections only; name the backbone file of '
                    'the release (..._clip_backbone.pth) as pretrained.'
                )
            self._load_published(pretrained, visual_projs_path)

    def _load_published(self, backbone_path: str, projs_path: str) -> None:
        own = self.state_dict()
        found = published_tower(backbone_path, projs_path)
        for key in ('attnpool.positional_embedding', *(k for k in own if k.endswith('num_batches_tracked'))):
            if key in own and key not in found:  # not in the release
                found[key] = own[key]
                self.without_positions |= key == 'attnpool.positional_embedding'
        self._fit_positions(found, '')
        check_fit(found, own, f'{backbone_path} with {projs_path}')
        self.load_state_dict(found)

    def _frozen_modules(self) -> list:
        return [self]

    def forward(self, images: Tensor) -> ImageFeatures:
        """Features of normalised images (B, 3, H, W), see :class:`ImageFeatures`."""
        return self.encode(images, self.features)


@MODELS.register_module()
class MaskCLIPViT(_MaskCLIPTower, CLIPViT):
    """CLIP's vision transformer with MaskCLIP's published settings.

    The published numbers come from exact GELU, layer norms with epsilon 1e-6 and bicubic positions. CLIP was trained
    with another activation (OpenAI: QuickGELU) and epsilon 1e-5: ``act=None, ln_eps=None`` give CLIP's own.

    Args:
        arch: See :class:`CLIPViT`.
        pretrained: See :class:`CLIPViT`; with ``visual_projs_path``, the release's ``<model>_clip_backbone.pth``.
        visual_projs_path: The release's ``<model>_clip_weights.pth``.
        features: What ``forward`` computes; add ``'global'`` for prompts that depend on the image.
        act, ln_eps, pos_mode: See :class:`CLIPViT`.
        **kwargs: As in :class:`CLIPViT`.
    """

    def __init__(
        self,
        arch: str | dict = 'ViT-B-16',
        pretrained: str | None = None,
        visual_projs_path: str | None = None,
        features: Sequence[str] = ('value',),
        act: str | None = 'gelu',
        ln_eps: float | None = 1e-6,
        pos_mode: str = 'bicubic',
        **kwargs: Any,
    ):
        weights = pretrained if visual_projs_path is None else None
        super().__init__(arch, weights, head=True, act=act, ln_eps=ln_eps, pos_mode=pos_mode, **kwargs)
        self._take(features, pretrained, visual_projs_path)


@MODELS.register_module()
class MaskCLIPResNet(_MaskCLIPTower, CLIPResNet):
    """CLIP's ModifiedResNet with the value projection of its attention pool applied to every position.

    Images with a side below 32 px are padded with zeros at the right and bottom.

    Args:
        arch: See :class:`CLIPResNet`.
        pretrained: See :class:`CLIPResNet`; with ``visual_projs_path``, the release's ``<model>_clip_backbone.pth``.
        visual_projs_path: The release's ``<model>_clip_weights.pth``. The release does not hold the pool's positions,
            so the features ``global`` and ``dense`` do not exist then.
        features: What ``forward`` computes; add ``'global'`` for prompts that depend on the image.
        attn_pooling: Take the attention pool's own outputs, without positions, instead of the values. There are no
            keys then.
        **kwargs: As in :class:`CLIPResNet`.
    """

    def __init__(
        self,
        arch: str | dict = 'RN50',
        pretrained: str | None = None,
        visual_projs_path: str | None = None,
        features: Sequence[str] = ('value',),
        attn_pooling: bool = False,
        **kwargs: Any,
    ):
        super().__init__(arch, pretrained if visual_projs_path is None else None, attnpool=True, **kwargs)
        self.attn_pooling = attn_pooling
        self._take(features, pretrained, visual_projs_path)

    @property
    def gives_keys(self) -> bool:
        """Whether ``key`` comes with ``value``."""
        return not self.attn_pooling

    def _encode(self, images: Tensor, features: set[str], prompts) -> ImageFeatures:
        if self.without_positions and features & {'global', 'dense'}:
            raise ConfigError(
                "MaskCLIPResNet: the official weight files lack the attention pool's positions, which the features "
                "'global' and 'dense' need. Load CLIP's own weights for them."
            )
        height, width = images.shape[2:]
        images = F.pad(images, (0, max(32 - width, 0), 0, max(32 - height, 0)))
        if not (self.attn_pooling and 'value' in features):
            return super()._encode(images, features, prompts)
        out = super()._encode(images, features - {'value'} | {'patch'}, prompts)
        tokens = self.attention_pool(out.patch, all_tokens=True, positions=False)
        out.value = tokens[:, 1:].transpose(1, 2).unflatten(2, out.patch.shape[2:])
        return out
