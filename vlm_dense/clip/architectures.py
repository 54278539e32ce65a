"""Architectures by name: open_clip's, the bundled ones, and configs in open_clip's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import open_clip
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer

from vlm_dense.clip.tips import ARCHITECTURES as TIPS
from vlm_dense.errors import ConfigError, WeightsNotFoundError, unknown_name

HF_CONFIG_NAME = 'open_clip_config.json'
BUNDLED_DIR = Path(__file__).parent / 'bundled'


def standard_name(arch: str) -> str:
    """An architecture's name as open_clip lists it: ``'ViT-B/16'`` is ``'ViT-B-16'``."""
    return arch if of_repository(arch) else arch.replace('/', '-')


def of_repository(name) -> bool:
    """Whether a name is that of a repository of a model, ``'hf-hub:ORG/NAME'`` or ``'local-dir:FOLDER'``."""
    return isinstance(name, str) and name.startswith((HF_HUB_PREFIX, LOCAL_DIR_PREFIX))


def repository_file(name: str, files: Sequence[str]) -> Path:
    """The first of some files that a repository has: of a folder, of the cache on this machine, or downloaded.

    Raises:
        WeightsNotFoundError: it has none of them, or cannot be reached.
    """
    place = name.partition(':')[2]
    if name.startswith(LOCAL_DIR_PREFIX):
        found = next((Path(place, file) for file in files if Path(place, file).is_file()), None)
        if found is None:
            raise WeightsNotFoundError(f'{name}: expected {" or ".join(files)} in the folder {place}, found none.')
        return found
    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(place, file)
        if isinstance(cached, str):
            return Path(cached)
    why = None
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(place, file))
        except Exception as error:  # no network, no such file, no such repository: the way out is the same
            why = error
    raise WeightsNotFoundError(
        f'{name}: {" or ".join(files)} is not on this machine and could not be downloaded ({type(why).__name__}). On a '
        f"machine with a network run 'hf download {place}', copy the folder here, and give 'local-dir:FOLDER'."
    ) from why


def repository_config(name: str) -> dict:
    """``open_clip_config.json`` of a repository: ``model_cfg``, and ``preprocess_cfg`` if it is there.

    Raises:
        WeightsNotFoundError: as :func:`repository_file`.
        ConfigError: it is not in open_clip's format.
    """
    path = repository_file(name, [HF_CONFIG_NAME])
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ConfigError(f'{path} is no JSON: {error}.') from error
    found = found if 'model_cfg' in found else dict(model_cfg=found)
    if not {'embed_dim', 'vision_cfg', 'text_cfg'} <= set(found['model_cfg']):
        raise ConfigError(
            f'{path} is no model config of open_clip: expected embed_dim, vision_cfg and text_cfg in model_cfg. Choose '
            'a repository with a model of open_clip.'
        )
    return found


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
    if of_repository(arch):
        return repository_config(arch)['model_cfg']
    arch = standard_name(arch)
    if arch in TIPS:
        return deepcopy(TIPS[arch])
    bundled = bundled_names()
    if arch in bundled:
        return json.loads((BUNDLED_DIR / f'{arch}.json').read_text(encoding='utf-8'))
    known = open_clip.list_models()
    if arch not in known:
        raise ConfigError(
            unknown_name(str(arch), 'list of architectures of open_clip and vlm_dense', [*known, *bundled, *TIPS])
        )
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
