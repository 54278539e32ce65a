"""The small CLIP architectures of all tests, in open_clip's form."""

from __future__ import annotations

TEXT = dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2)
VIT = dict(image_size=32, patch_size=8, width=32, head_width=16, layers=2)
RESNET = dict(image_size=64, layers=[1, 1, 1, 1], width=8, head_width=32)


def vit(embed_dim: int = 16, text: dict | None = None, **vision) -> dict:
    """A CLIP with a transformer for images.

    Args:
        embed_dim: Channels of the joint space.
        text: What differs from ``TEXT``.
        **vision: What differs from ``VIT``.
    """
    return dict(
        embed_dim=embed_dim, quick_gelu=True, vision_cfg=dict(VIT, **vision), text_cfg=dict(TEXT, **(text or {}))
    )


def resnet(embed_dim: int = 16, text: dict | None = None, **vision) -> dict:
    """A CLIP with a ResNet for images; arguments as those of :func:`vit`."""
    return dict(
        embed_dim=embed_dim, quick_gelu=True, vision_cfg=dict(RESNET, **vision), text_cfg=dict(TEXT, **(text or {}))
    )
