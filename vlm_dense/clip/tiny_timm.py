"""The trunk of the bundled tiny-siglip, which timm has no model of the size for."""

from __future__ import annotations

from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer

default_cfgs = generate_default_cfgs({'vit_tiny_patch8_siglip_64': dict(input_size=(3, 64, 64))})


@register_model
def vit_tiny_patch8_siglip_64(pretrained: bool = False, **options) -> VisionTransformer:
    """As timm's SigLIP towers, for images of 64 px: 4 blocks of width 128, patches of 8 px, an attention pool."""
    size = dict(img_size=64, patch_size=8, embed_dim=128, depth=4, num_heads=4)
    return VisionTransformer(**{**size, 'class_token': False, 'global_pool': 'map', **_own(options)})


def _own(options: dict) -> dict:
    """Without what timm's factory adds for its own models."""
    return {key: value for key, value in options.items() if not key.startswith(('pretrained_', 'cache_dir'))}
