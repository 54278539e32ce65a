"""Architectures by name: open_clip's, the bundled ones, and configs in open_clip's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import open_clip
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from vlm_dense.errors import ConfigError, unknown_name

BUNDLED_DIR = Path(__file__).parent / 'bundled'


def model_config(arch: str | Mapping) -> dict:
    """Config of an architecture in open_clip's model-config format, as a new dict.

    Args:
        arch: As for :func:`vlm_dense.clip.load_clip`.

    Raises:
        ConfigError: open_clip and the bundled models do not know ``arch``.
    """
    if isinstance(arch, Mapping):
        missing = [key for key in ('embed_dim', 'vision_cfg', 'text_cfg') if key not in arch]
        if missing:
            raise ConfigError(
                'arch as a dict must be in the format of an open_clip model config, with embed_dim, vision_cfg '
                f'and text_cfg; {", ".join(missing)} missing, found {", ".join(arch) or "an empty dict"}.'
            )
        return deepcopy(dict(arch))
    arch = arch.replace('/', '-')
    bundled = bundled_names()
    if arch in bundled:
        return json.loads((BUNDLED_DIR / f'{arch}.json').read_text(encoding='utf-8'))
    known = open_clip.list_models()
    if arch not in known:
        raise ConfigError(unknown_name(str(arch), 'list of architectures of open_clip and vlm_dense', known + bundled))
    return open_clip.get_model_config(arch)


def image_tower_kind(config: dict) -> type:
    """Class of the image tower of a config: open_clip's ``ModifiedResNet``, ``VisionTransformer`` or ``TimmModel``."""
    vision = config['vision_cfg']
    if vision.get('timm_model_name'):
        return TimmModel
    return ModifiedResNet if isinstance(vision.get('layers'), (list, tuple)) else VisionTransformer


def bundled_names() -> list[str]:
    """Architectures with weights in the package."""
    return sorted(file.stem for file in BUNDLED_DIR.glob('*.json'))
