"""The image tower of any architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models import is_model_in_modules

from vlm_dense.clip import tiny_timm
from vlm_dense.clip.architectures import image_tower_kind, model_config
from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.timm_maps import CLIPTimmMaps
from vlm_dense.clip.timm_vit import CLIPTimmViT
from vlm_dense.clip.tips import is_tips
from vlm_dense.clip.tips_vit import TIPSViT
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.registry import MODELS

_MAPS = ('convnext', 'fastvit', 'swin_transformer', 'vision_transformer_relpos')
"""timm's modules with towers that make maps."""


@MODELS.register_module()
class CLIPTower(ImageTower):
    """The image tower of any open_clip architecture; building one gives an instance of the class that implements it.

    That is :class:`~vlm_dense.clip.vit.CLIPViT`, :class:`~vlm_dense.clip.resnet.CLIPResNet`,
    :class:`~vlm_dense.clip.timm_vit.CLIPTimmViT`, :class:`~vlm_dense.clip.timm_maps.CLIPTimmMaps` or
    :class:`~vlm_dense.clip.tips_vit.TIPSViT`.

    Args:
        arch, pretrained: See :func:`vlm_dense.clip.load_clip`.
        head: Keep the last norm, pool and projection; here by default. Without it, for plain mm backbones that only
            need stage maps, distributed training has no unused parameters.
        **options: Of the class, see there.

    Examples:
        >>> import torch
        >>> tower = CLIPTower('tiny-vit', frozen=True)
        >>> type(tower).__name__, tower.encode(torch.randn(2, 3, 64, 96), ('global',)).global_.shape
        ('CLIPViT', torch.Size([2, 128]))
    """

    def __new__(cls, arch: str | Mapping, pretrained: str | None = None, head: bool = True, **options: Any):
        kind = implementation(arch)
        name = 'attnpool' if kind is CLIPResNet else 'head'
        return kind(arch, pretrained, **{name: head}, **options)

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """As in :class:`ImageTower`."""
        return implementation(cfg['arch']).stage_channels(cfg)


def implementation(arch: str | Mapping) -> type[ImageTower]:
    """The class of the image tower of an architecture.

    Raises:
        ConfigError: open_clip and the bundled models do not know it.
    """
    config = model_config(arch)
    if is_tips(config):
        return TIPSViT
    kind = image_tower_kind(config)
    if kind is not TimmModel:
        return CLIPResNet if kind is ModifiedResNet else CLIPViT
    name = config['vision_cfg']['timm_model_name']
    maps = is_model_in_modules(name, _MAPS) or name in tiny_timm.MAPS
    return CLIPTimmMaps if maps else CLIPTimmViT
