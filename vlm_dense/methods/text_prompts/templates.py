"""Published template lists, sentences with ``{}`` for the class name."""

from __future__ import annotations

from open_clip import OPENAI_IMAGENET_TEMPLATES

IMAGENET_TEMPLATES = tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)
"""CLIP's 80 for ImageNet, in their order."""

MASKCLIP_TEMPLATES = (
    *IMAGENET_TEMPLATES,
    'there is a {} in the scene.',
    'there is the {} in the scene.',
    'this is a {} in the scene.',
    'this is the {} in the scene.',
    'this is one {} in the scene.',
)
"""MaskCLIP's 85."""
