"""Sources of the weights of a name: bundled, a file, a cache on this machine, or a download by open_clip."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import open_clip
from huggingface_hub.errors import HfHubHTTPError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from vlm_dense.clip import architectures
from vlm_dense.errors import ConfigError, WeightsNotFoundError


def locate_weights(arch: str | Mapping, config: dict, pretrained: str | os.PathLike | None) -> tuple[Path | None, dict]:
    """The file of the weights and, if they have a tag, open_clip's entry for it.

    Args:
        arch, pretrained: As for :func:`vlm_dense.clip.load_clip`.
        config: The architecture's config.

    Raises:
        ConfigError, WeightsNotFoundError: As for :func:`vlm_dense.clip.load_clip`.
    """
    if pretrained is None:
        return None, {}
    bundled = architectures.bundled_names()
    if pretrained == 'bundled':
        if isinstance(arch, Mapping) or arch not in bundled:
            raise ConfigError(
                f"pretrained='bundled' needs one of the bundled architectures, {' or '.join(map(repr, bundled))}; "
                f'found {_name(arch)}.'
            )
        return architectures.BUNDLED_DIR / f'{arch}.safetensors', {}
    if architectures.of_repository(pretrained):
        return architectures.repository_file(pretrained, [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]), {}
    name, path = os.fspath(pretrained), Path(pretrained).expanduser()
    tags = [] if isinstance(arch, Mapping) else open_clip.list_pretrained_tags_by_model(arch)
    tag_config = open_clip.get_pretrained_cfg(arch, name) if tags else {}
    if tag_config:
        return _find_tagged(arch, name, tag_config, config), tag_config
    if path.is_file():
        return path, {}
    if path.exists() or len(path.parts) > 1 or path.suffix in ('.pt', '.pth', '.bin', '.safetensors'):
        raise WeightsNotFoundError(
            f'No weight file at pretrained={name!r} (looked for {path.absolute()}). Check the path, or use '
            f'{_bundled_like(config)}, which comes with vlm_dense.'
        )
    raise ConfigError(
        f'pretrained={name!r} is neither a file nor a tag of weights for {_name(arch)}. '
        + (f'Its tags: {", ".join(tags)}.' if tags else 'It has no tags: pass the path of a file.')
    )


def _find_tagged(arch: str, tag: str, tag_config: dict, config: dict) -> Path:
    """The file of open_clip's tag: from the caches on this machine, or else downloaded by open_clip."""
    repository, file = os.path.split(tag_config['hf_hub'])
    files = [os.path.splitext(file)[0] + '.safetensors', file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    places = [huggingface_hub.try_to_load_from_cache(repository, file) for file in files]
    looked, put = f'{huggingface_hub.constants.HF_HUB_CACHE}', ''
    if tag_config['url']:  # the first release of these weights, where open_clip and OpenAI's own package keep it
        original = Path('~/.cache/clip').expanduser() / os.path.basename(tag_config['url'])
        places.append(original)
        looked, put = f'{looked} and as {original}', f'put it at {original}, or '
    for place in places:
        if isinstance(place, (str, Path)) and Path(place).is_file():
            return Path(place)
    try:
        return _download(tag_config, repository, files[-1])
    except Exception as error:  # no network, a proxy, a full disk, a repository that moved: the way out is the same
        by_path = f'{arch}-quickgelu' if tag_config.get('quick_gelu') and not config.get('quick_gelu') else arch
        raise WeightsNotFoundError(
            f'The weights of arch={arch!r}, pretrained={tag!r} are not on this machine and could not be downloaded '
            f'({type(error).__name__}).\n'
            f'  Which: {files[0]} (or {files[-1]}) of the Hugging Face repository {repository}.\n'
            f'  Looked for in: {looked}.\n'
            f"  To get it: on a machine with a network run 'hf download {repository}'; copy the file here and {put}"
            f"pass arch={by_path!r}, pretrained='/path/to/{files[0]}'.\n"
            f'  Without it: {_bundled_like(config)} comes with vlm_dense.'
        ) from error


def _download(tag_config: dict, repository: str, file: str) -> Path:
    # One try to reach the server first: without a connection, the download itself repeats its tries for a minute.
    with contextlib.suppress(HfHubHTTPError):  # it answers; which of the files it has, open_clip finds out
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, file), timeout=5)
    return Path(open_clip.download_pretrained(tag_config))


def _bundled_like(config: dict) -> str:
    resnet = isinstance(config['vision_cfg'].get('layers'), (list, tuple))
    return f"arch='{'tiny-rn' if resnet else 'tiny-vit'}', pretrained='bundled'"


def _name(arch: str | Mapping) -> str:
    return 'an arch given as a dict' if isinstance(arch, Mapping) else f'arch={arch!r}'
