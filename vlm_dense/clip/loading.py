"""(architecture, pretrained) -> CLIP model, and the safe reading of weight files."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub.errors import HfHubHTTPError
from mmengine.logging import print_log
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from vlm_dense.clip.tokenizer import tokenize
from vlm_dense.errors import CheckpointError, ConfigError, WeightsNotFoundError
from vlm_dense.registry import unknown_name

__all__ = ['check_fit', 'load_clip', 'model_config', 'read_state_dict', 'tokenize']

BUNDLED_DIR = Path(__file__).parent / 'bundled'

OPENAI_ENTRIES = ('input_resolution', 'context_length', 'vocab_size')
"""Numbers that OpenAI stores beside the weights; no parameter has these names."""

POSITION_GRIDS = ('visual.positional_embedding', 'visual.attnpool.positional_embedding')
"""Tables (1 + side * side, width) of the ViT and of the attention pool; row 0 has no place."""


def load_clip(
    arch: str | Mapping,
    pretrained: str | os.PathLike | None = None,
    *,
    image_size: int | None = None,
    quick_gelu: bool | None = None,
) -> nn.Module:
    """Build a CLIP model and load its weights.

    QuickGELU or GELU? OpenAI trained with QuickGELU, most of the others with
    GELU, and the weights alone do not tell. The first of these that applies
    decides, and the log says which did:

    1. ``quick_gelu``, if given;
    2. the architecture: ``'...-quickgelu'``, or ``quick_gelu`` in its config;
    3. for a tag, what open_clip's table of weights says;
    4. a file that is OpenAI's release uses QuickGELU: a TorchScript archive, a
       state dict that holds ``input_resolution``, ``context_length`` or
       ``vocab_size``, or one in float16 in a file named as OpenAI's;
    5. an architecture of which all published weights use QuickGELU (RN50, ...)
       uses it too;
    6. otherwise GELU.

    Args:
        arch: open_clip name (``'RN50'``, ``'ViT-B-16'``; ``'ViT-B/16'`` is
            the same), bundled name (``'tiny-rn'``, ``'tiny-vit'``), or a dict
            in open_clip's model-config format.
        pretrained: None for random weights (torch's global generator), an
            open_clip tag (``'openai'``, ``'laion2b_s34b_b88k'``),
            ``'bundled'``, or the path of a file that :func:`read_state_dict`
            reads.
        image_size: Side of the input images in pixels, if it is to differ
            from the architecture's: the grid of position embeddings is then
            resized, bilinearly (DenseCLIP).
        quick_gelu: Overrules the rule above.

    Returns:
        ``open_clip.model.CLIP`` or ``CustomTextCLIP``, float32, on the CPU, in
        eval mode.

    Raises:
        ConfigError: unknown architecture or tag, or a config that open_clip
            cannot build.
        WeightsNotFoundError: the weights are neither on disk nor to be had.
        CheckpointError: the file is damaged, foreign, holds code, or does not
            fit the architecture.
    """
    if isinstance(arch, str):
        arch = arch.replace('/', '-')
    config = model_config(arch)
    if image_size is not None:
        config['vision_cfg']['image_size'] = image_size
    path, tag_config = _locate(arch, config, pretrained)
    state_dict = read_state_dict(path) if path else {}
    config['quick_gelu'], why = _decide_gelu(arch, config, quick_gelu, tag_config, path, state_dict)

    model = _build(config)
    if path:
        _load(model, state_dict, path, image_size)
        activation = 'QuickGELU' if config['quick_gelu'] else 'GELU'
        print_log(f'CLIP weights from {path}, with {activation}: {why}.', logger='current', level=logging.INFO)
    return model.eval()


def model_config(arch: str | Mapping) -> dict:
    """Config of an architecture in open_clip's model-config format, as a new dict.

    Args:
        arch: As for :func:`load_clip`.

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
    bundled = _bundled_names()
    if arch in bundled:
        return json.loads((BUNDLED_DIR / f'{arch}.json').read_text(encoding='utf-8'))
    known = open_clip.list_models()
    if arch not in known:
        raise ConfigError(unknown_name(str(arch), 'list of architectures of open_clip and vlm_dense', known + bundled))
    return open_clip.get_model_config(arch)


def read_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a weight file without running any Python code in it.

    Reads safetensors, ``torch.save`` files and TorchScript archives, whatever
    their suffix. A ``'state_dict'`` inside a training checkpoint is taken out of
    it, and a ``'module.'`` in front of all keys is taken off.

    Args:
        path: The file.

    Returns:
        Name -> tensor on the CPU in the dtype of the file. Numbers among the
        tensors become tensors.

    Raises:
        WeightsNotFoundError: no such file.
        CheckpointError: the file is empty, truncated, damaged, of another
            kind, holds code or other Python objects, or holds no state dict.
    """
    path = Path(path)
    return _only_tensors(_read(path), path)


def read_tensor(path: str | os.PathLike) -> Tensor:
    """Read a file that holds one bare tensor, as ``torch.save(tensor, path)`` writes it; on the CPU.

    Raises:
        WeightsNotFoundError, CheckpointError: as :func:`read_state_dict`, or the file holds something else.
    """
    content = _read(Path(path))
    if not isinstance(content, Tensor):
        raise CheckpointError(f'{path}: expected one tensor, found an object of type {type(content).__name__}.')
    return content.detach()


def _read(path: Path) -> object:
    if not path.is_file():
        found = 'a folder' if path.is_dir() else 'none'
        raise WeightsNotFoundError(f'Expected a weight file at {path.absolute()}, found {found}.')
    kind = _file_kind(path)
    try:
        if zipfile.is_zipfile(path):
            _check_sums(path)  # torch itself does not compare them
        if kind == 'safetensors':
            content = load_file(path)
        elif kind == 'TorchScript':
            # The archive holds a program in TorchScript's own language: loading it runs no Python and calls none of
            # its methods but a __setstate__, which OpenAI's have not.
            content = torch.jit.load(path, map_location='cpu').state_dict()
        else:
            content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        asks_for = re.search(r'GLOBAL (\S+)', str(error))
        if asks_for is None:
            raise _damaged(path, kind, error) from error
        raise CheckpointError(
            f'{path} holds code or Python objects besides tensors (it asks for {asks_for[1]}). It was refused and '
            'nothing in it was run. Expected tensors only: if you trust where it comes from, open it there and save '
            "its state dict alone, with torch.save(state_dict, '...pt') or as safetensors."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise anything: EOFError, struct.error, RuntimeError, KeyError, ...
        raise _damaged(path, kind, error) from error
    return content


@contextlib.contextmanager
def allowed_in_pickles(objects: Sequence) -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` build these classes and call these functions, and restore its list after.

    A pickle finds an object under its ``__module__`` and ``__qualname__``, in every version of torch.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(objects))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def check_fit(state_dict: Mapping[str, Tensor], reference_shapes: Mapping[str, tuple], source: object) -> None:
    """Refuse a state dict that is not exactly what a module needs.

    Args:
        state_dict: What was found.
        reference_shapes: Name -> shape of everything that is needed.
        source: Where the state dict comes from, for the message.

    Raises:
        CheckpointError: names the first missing, unexpected and wrongly
            shaped keys and counts them all.
    """
    missing = [key for key in reference_shapes if key not in state_dict]
    unexpected = [key for key in state_dict if key not in reference_shapes]
    reshaped = [
        f'{key} (expected {tuple(shape)}, found {tuple(state_dict[key].shape)})'
        for key, shape in reference_shapes.items()
        if key in state_dict and state_dict[key].shape != torch.Size(shape)
    ]
    findings = [
        f'  {len(keys)} {what}: {", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""}'
        for what, keys in (('missing', missing), ('unexpected', unexpected), ('of another shape', reshaped))
        if keys
    ]
    if findings:
        raise CheckpointError(
            f'{source} does not fit: of the {len(reference_shapes)} keys expected and the {len(state_dict)} found,\n'
            + '\n'.join(findings)
            + '\nNothing was loaded. Take the file that belongs to this model, or the model that belongs to this file.'
        )


POSITION_MODES = ('bilinear', 'bicubic', 'bicubic_scaled')


def resize_positions(positions: Tensor, size: tuple[int, int], mode: str = 'bilinear') -> Tensor:
    """Resize the spatial part of a table of position embeddings.

    Args:
        positions: (1 + S*S, C); row 0 belongs to the class or mean token and is kept.
        size: Wanted grid (h, w).
        mode: ``'bilinear'`` (DenseCLIP), ``'bicubic'`` (MaskCLIP), or ``'bicubic_scaled'``: DINO's rule, which SCLIP
            and its successors follow. It samples at the scale factors (h + 0.1) / S and (w + 0.1) / S, and keeps the
            table as it is for any grid of S*S places, whatever its shape. align_corners is False in all.

    Returns:
        (1 + h*w, C), in the dtype of ``positions``.
    """
    side, (h, w) = math.isqrt(len(positions) - 1), size
    if size == (side, side) or mode == 'bicubic_scaled' and h * w == side * side:
        return positions
    grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    if mode == 'bicubic_scaled':
        grid = F.interpolate(grid, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode='bicubic')
    else:
        grid = F.interpolate(grid, size=size, mode=mode, align_corners=False)
    return torch.cat([positions[:1], grid.to(positions.dtype).flatten(2)[0].T])


# --- where the weights are -------------------------------------------------------------------------------------------


def _bundled_names() -> list[str]:
    return sorted(file.stem for file in BUNDLED_DIR.glob('*.json'))


def _name(arch: str | Mapping) -> str:
    return 'an arch given as a dict' if isinstance(arch, Mapping) else f'arch={arch!r}'


def _locate(arch: str | Mapping, config: dict, pretrained: str | os.PathLike | None) -> tuple[Path | None, dict]:
    """The file of the weights and, if they have a tag, open_clip's entry for it."""
    if pretrained is None:
        return None, {}
    bundled = _bundled_names()
    if pretrained == 'bundled':
        if isinstance(arch, Mapping) or arch not in bundled:
            raise ConfigError(
                f"pretrained='bundled' needs one of the bundled architectures, {' or '.join(map(repr, bundled))}; "
                f'found {_name(arch)}.'
            )
        return BUNDLED_DIR / f'{arch}.safetensors', {}
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


# --- what is in a file -----------------------------------------------------------------------------------------------

_LEGACY_TORCH = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_FOREIGN = {
    b'<': 'an HTML or XML page (saved in place of the file?)',
    b'version https://git-lfs': 'a Git LFS pointer (the file itself was not fetched)',
    b'\x89PNG': 'a PNG image',
    b'\xff\xd8\xff': 'a JPEG image',
    b'\x80': 'a bare Python pickle, which may hold code (it was not run)',
    b'PK': 'a zip archive that torch did not write',
}


def _file_kind(path: Path) -> str:
    """'safetensors', 'TorchScript' or 'torch.save', from the content."""
    try:
        with path.open('rb') as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror}.') from error
    if head[8:9] == b'{':
        return 'safetensors'
    if head.startswith(_LEGACY_TORCH):
        return 'torch.save'
    if head.startswith(b'PK'):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {os.path.basename(name) for name in archive.namelist()}
        except zipfile.BadZipFile as error:
            raise _damaged(path, 'torch.save', error) from error
        if 'data.pkl' in names:
            return 'TorchScript' if 'constants.pkl' in names else 'torch.save'
    found = next((what for start, what in _FOREIGN.items() if head.lstrip().startswith(start)), None)
    if not head:
        found = 'an empty file'
    raise CheckpointError(
        f'{path}: expected weights (safetensors, a torch.save file or a TorchScript archive), found '
        f'{found or f"something that starts with {head[:12]!r}"}.'
    )


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise zipfile.BadZipFile(f'the checksum of its part {broken} is wrong')


def _damaged(path: Path, kind: str, reason: object) -> CheckpointError:
    reason = str(reason).strip().partition('\n')[0][:200]
    return CheckpointError(
        f'{path}: expected a whole {kind} file, found {path.stat().st_size} bytes that are truncated or damaged '
        f'({reason}). Download or copy it again.'
    )


def _only_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get('state_dict'), Mapping):
        content = content['state_dict']
    if not isinstance(content, Mapping) or not content:
        what = 'an empty dict' if isinstance(content, Mapping) else f'an object of type {type(content).__name__}'
        raise CheckpointError(f'{path}: expected a state dict (names and tensors), found {what}.')
    tensors = {
        key: torch.as_tensor(value) if isinstance(value, (int, float)) else value for key, value in content.items()
    }
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'{path}: expected a state dict (names and tensors), found {key!r} of type {type(value).__name__} '
                f'among {", ".join(map(str, list(tensors)[:5]))}.'
            )
    prefix = 'module.' if all(key.startswith('module.') for key in tensors) else ''
    return {key.removeprefix(prefix): value.detach() for key, value in tensors.items()}


# --- weights into a model --------------------------------------------------------------------------------------------


def _decide_gelu(
    arch: str | Mapping,
    config: dict,
    quick_gelu: bool | None,
    tag_config: dict,
    path: Path | None,
    state_dict: dict[str, Tensor],
) -> tuple[bool, str]:
    """Whether the model needs QuickGELU, and why; the rule stands in :func:`load_clip`."""
    if quick_gelu is not None:
        return quick_gelu, f'quick_gelu={quick_gelu} was asked for'
    if 'quick_gelu' in config:
        return config['quick_gelu'], 'the architecture says so'
    if tag_config:
        return tag_config.get('quick_gelu', False), "open_clip's table of weights says so"
    if path and _is_openai_release(path, state_dict):
        return True, "the file is a release of OpenAI's"
    tags = [] if isinstance(arch, Mapping) else open_clip.list_pretrained_tags_by_model(arch)
    quick = [tag for tag in tags if open_clip.get_pretrained_cfg(arch, tag).get('quick_gelu')]
    if quick and len(quick) == len(tags):
        return True, f'all published weights of {arch} use it'
    if quick and path:
        print_log(
            f'{path} does not tell whether it needs GELU, as {arch} has it, or QuickGELU. If these are the weights '
            f"{', '.join(quick)}, use arch='{arch}-quickgelu'.",
            logger='current',
            level=logging.WARNING,
        )
    return False, 'nothing asks for QuickGELU'


def _is_openai_release(path: Path, state_dict: dict[str, Tensor]) -> bool:
    if any(key in state_dict for key in OPENAI_ENTRIES) or _file_kind(path) == 'TorchScript':
        return True
    half = any(value.dtype == torch.float16 for value in state_dict.values())
    return half and path.name in _openai_file_names()


@functools.cache
def _openai_file_names() -> frozenset[str]:
    models = open_clip.list_pretrained_models_by_tag('openai')
    return frozenset(os.path.basename(open_clip.get_pretrained_url(model, 'openai')) for model in models)


def _build(config: dict) -> nn.Module:
    config = deepcopy(config)
    if 'multimodal_cfg' in config or config['text_cfg'].get('hf_model_name'):
        raise ConfigError(
            'arch has the text tower of CoCa or of a Hugging Face model. Expected one with a text tower of the CLIP '
            "kind, such as 'RN50' or 'ViT-B-16'."
        )
    if 'timm_model_name' in config['vision_cfg']:
        config['vision_cfg']['timm_model_pretrained'] = False
    model_class = CustomTextCLIP if config.pop('custom_text', False) else CLIP
    try:
        return model_class(**config)
    except TypeError as error:
        raise ConfigError(f'open_clip cannot build a model from this arch: {error}.') from error


def _load(model: nn.Module, state_dict: dict[str, Tensor], path: Path, image_size: int | None) -> None:
    """Load a state dict whole or not at all; float16 becomes float32 in the copy."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    computed = {key for key, _ in model.named_buffers()} - set(shapes)  # the causal mask, which archives hold as well
    state_dict = {key: value for key, value in state_dict.items() if key not in computed | {*OPENAI_ENTRIES}}
    if 'token_embedding.ids' in state_dict:
        state_dict = _whole_token_table(state_dict, shapes['token_embedding.weight'][0], path)
    state_dict = convert_state_dict(model, state_dict)
    if isinstance(model, CustomTextCLIP):
        state_dict = convert_to_custom_text_state_dict(state_dict)
    for key in ('logit_scale', 'logit_bias'):  # () or (1,)
        if key in state_dict and key in shapes and state_dict[key].numel() == 1:
            state_dict[key] = state_dict[key].reshape(shapes[key])
    for key in POSITION_GRIDS:
        if key in state_dict and key in shapes:
            state_dict[key] = _fit_grid(state_dict[key], shapes[key], path, image_size)
    check_fit(state_dict, shapes, path)
    model.load_state_dict(state_dict)


def _fit_grid(table: Tensor, shape: torch.Size, path: Path, image_size: int | None) -> Tensor:
    """The table, resized if only its grid differs and another image size was asked for."""
    if table.ndim != 2 or table.shape[1:] != shape[1:] or len(table) == shape[0]:
        return table
    found, expected = math.isqrt(len(table) - 1), math.isqrt(shape[0] - 1)
    if found**2 + 1 != len(table):
        return table
    if image_size is None:
        raise CheckpointError(
            f'{path} has positions for {found} x {found} places, the architecture for {expected} x {expected}: it was '
            'trained at another image size. Pass image_size= to have the positions resized to that size.'
        )
    return resize_positions(table.float(), (expected, expected))


def _whole_token_table(state_dict: dict[str, Tensor], vocab_size: int, path: Path) -> dict[str, Tensor]:
    """Expand the token table of the bundled models, which store only the rows that were trained.

    The others are drawn, the same on every machine: the whole table from
    ``numpy.random.RandomState(0)``, normal with deviation 0.02; then the trained
    rows are written over it.
    """
    state_dict = dict(state_dict)
    ids, rows = state_dict.pop('token_embedding.ids'), state_dict.pop('token_embedding.rows')
    if len(ids) != len(rows) or (len(ids) and int(ids.max()) >= vocab_size):
        raise CheckpointError(
            f'{path}: expected one row of token_embedding.rows for each of token_embedding.ids below {vocab_size}, '
            f'found {len(rows)} rows and {len(ids)} ids up to {int(ids.max())}.'
        )
    table = np.random.RandomState(0).standard_normal((vocab_size, rows.shape[1])) * 0.02
    table = torch.from_numpy(table.astype(np.float32))
    table[ids.long()] = rows.float()
    state_dict['token_embedding.weight'] = table
    return state_dict
