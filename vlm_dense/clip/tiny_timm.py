"""The trunks of the bundled tiny-siglip and tiny-convnext, which timm has no models of the size for."""

from __future__ import annotations

from timm.models import generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer

default_cfgs = generate_default_cfgs(
    {
        'vit_tiny_patch8_siglip_64': dict(input_size=(3, 64, 64)),
        'convnext_tiny_stride8_64': dict(input_size=(3, 64, 64)),
    }
)

MAPS = ('convnext_tiny_stride8_64',)
"""Those that make maps, which are no towers of blocks."""


@register_model
def vit_tiny_patch8_siglip_64(pretrained: bool = False, **options) -> VisionTransformer:
    """As timm's SigLIP towers, for images of 64 px: 4 blocks of width 128, patches of 8 px, an attention pool."""
    size = dict(img_size=64, patch_size=8, embed_dim=128, depth=4, num_heads=4)
    return VisionTransformer(**{**size, 'class_token': False, 'global_pool': 'map', **_own(options)})


@register_model
def convnext_tiny_stride8_64(pretrained: bool = False, **options) -> ConvNeXt:
    """A ConvNeXt for images of 64 px: 0.5 M parameters, strides 4, 8, 8, 8 (the last two stages are dilated).

    Stride 8 divides images of 64 px as stride 32 divides images of 256 px.
    """
    size = dict(depths=(1, 1, 2, 1), dims=(32, 64, 96, 160), kernel_sizes=(7, 7, 3, 3), output_stride=8)
    learns_sooner = dict(stem_type='overlap_act', ls_init_value=1.0)  # than with patches, and blocks that begin at 0
    return ConvNeXt(**{**size, **learns_sooner, **_own(options)})


def _own(options: dict) -> dict:
    """Without what timm's factory adds for its own models."""
    return {key: value for key, value in options.items() if not key.startswith(('pretrained_', 'cache_dir'))}
