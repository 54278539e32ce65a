"""Checkpoints read without running code, with an error that names a damaged file."""

from __future__ import annotations

import codecs
import datetime
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from vlm_dense.clip.weight_files import file_kind, read_content
from vlm_dense.engine.checkpoints.bundled import read_bundled
from vlm_dense.engine.configs.names import BUNDLED
from vlm_dense.engine.files import atomic_write, lock
from vlm_dense.errors import CheckpointError, unknown_name


def install_loaders() -> None:
    """Make mmengine read checkpoints with :func:`load_from_local` and :func:`load_from_http`, in this process.

    It then does so on every way to them: ``load_from``, resume, test, ``init_cfg``, inferencers.
    """
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    CheckpointLoader.register_scheme([f'{scheme}://' for scheme in _LISTS], load_by_name, force=True)
    CheckpointLoader.register_scheme(BUNDLED, read_bundled, force=True)
    CheckpointLoader.register_scheme([r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'pavi://'], load_from_local, force=True)


def read_checkpoint(path: str, map_location=None) -> dict:
    """Read a checkpoint from a file or a URL, whether or not the loaders are installed; see :func:`load_from_local`."""
    if path.startswith(('http://', 'https://')):
        return load_from_http(path, map_location)
    if path.startswith(tuple(f'{scheme}://' for scheme in _LISTS)):
        return load_by_name(path, map_location)
    if path.startswith(BUNDLED):
        return read_bundled(path, map_location)
    return load_from_local(path, map_location)


def _known_as(module: str, name: str):
    """Decorator: let a pickle find the function under another's name, in every version of torch."""

    def rename(function):
        function.__module__, function.__name__, function.__qualname__ = module, name, name
        return function

    return rename


@_known_as('builtins', 'getattr')
def _history_method(owner: type, name: str):
    """Stands for ``getattr`` in a pickle: mmengine's log history names its own statistics this way, nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r})')
    return getattr(owner, name)


def _numpy_functions() -> list:
    """Functions that rebuild numpy's scalars and arrays, under the names of numpy 2 and 1."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    functions = []
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        for name in ('_reconstruct', 'scalar'):
            real = getattr(multiarray, name)
            functions.append(_known_as(module, name)(lambda *args, real=real: real(*args)))
    return functions


# beyond tensors: what mmengine's checkpoints hold, log history, numpy scalars and arrays, slices
_ALLOWED = [slice, codecs.encode, np.ndarray, np.dtype, HistoryBuffer, _history_method, *_numpy_functions()]
_ALLOWED += {type(np.dtype(kind)) for kind in '?bBhHiIlLqQefdU'}
# what others keep in meta
_ALLOWED += [datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone]
_ALLOWED += [pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath]


def load_from_local(filename: str, map_location=None) -> dict:
    """Read a ``.pth`` or ``.safetensors`` file; mmengine's loader of local checkpoints.

    Args:
        filename: Path of the file.
        map_location: As in :func:`torch.load`.

    Returns:
        What the file holds; of safetensors, ``dict(meta={}, state_dict=...)``.

    Raises:
        CheckpointError: no such file, a damaged file, a file of another format, or a pickle that wants to run code,
            which does not run.
    """
    if '://' in filename:
        raise CheckpointError(
            f'Checkpoint {filename} lies in a storage that cannot be read: expected a file, http://, https:// or '
            f'one of {", ".join(f"{scheme}://" for scheme in _LISTS)}. Copy it to this machine and name the file.'
        )
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise CheckpointError(f'Checkpoint {filename} does not exist.{_nearby(filename)}')
    try:
        kind = file_kind(Path(filename))
    except CheckpointError as error:
        raise CheckpointError(_why_unreadable(filename, str(error).removeprefix(f'{filename}: '))) from error
    try:
        if kind == 'TorchScript':
            raise ValueError(kind)
        checkpoint = read_content(Path(filename), kind, _ALLOWED, map_location)
        if kind == 'safetensors':
            checkpoint = dict(meta={}, state_dict=checkpoint)
            if map_location is not None:
                checkpoint['state_dict'] = {k: v.to(map_location) for k, v in checkpoint['state_dict'].items()}
    except (torch.cuda.OutOfMemoryError, MemoryError, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(_why_unreadable(filename, error)) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'Checkpoint {filename} holds a {type(checkpoint).__name__}; expected a dict of weights or a checkpoint '
            'of mmengine, which is a dict with the key "state_dict".'
        )
    checkpoint = _of_detectron2(checkpoint)
    _check_parts(checkpoint, filename)
    if isinstance((checkpoint.get('meta') or {}).get('config'), str):  # mmengine would run it
        del checkpoint['meta']['config']
    return checkpoint


def _of_detectron2(checkpoint: dict) -> dict:
    """A checkpoint of detectron2, weights under ``model`` as tensors or arrays, as one of mmengine; others as given."""
    weights = checkpoint.get('model')
    if 'state_dict' in checkpoint or not isinstance(weights, Mapping):
        return checkpoint
    tensors = {k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in weights.items()}
    return dict(meta={}, state_dict=tensors)


def _check_parts(checkpoint: dict, filename: str) -> None:
    """Refuse a checkpoint with parts of other types than readers of checkpoints expect."""
    parts = {key: checkpoint[key] for key in ('state_dict', 'meta') if key in checkpoint}
    if checkpoint.get('meta') is None:
        parts.pop('meta', None)
    elif isinstance(checkpoint['meta'], Mapping) and checkpoint['meta'].get('dataset_meta') is not None:
        parts["meta['dataset_meta']"] = checkpoint['meta']['dataset_meta']
    for key, part in parts.items():
        if not isinstance(part, Mapping):
            raise CheckpointError(
                f'Checkpoint {filename} is damaged: its {key} is of type {type(part).__name__}, expected a dict. Take '
                'another one.'
            )
    names = (parts.get("meta['dataset_meta']") or {}).get('classes')
    if not isinstance(names, (list, tuple, type(None))) or not all(isinstance(name, str) for name in names or ()):
        raise CheckpointError(
            f"Checkpoint {filename} is damaged: its meta['dataset_meta']['classes'] is {str(names)[:100]}, expected "
            'a list of names. Take another one.'
        )
    odd = [key for key in parts.get('state_dict', ()) if not isinstance(key, str)]
    if odd:
        raise CheckpointError(
            f'Checkpoint {filename} is damaged: its state_dict has the key {odd[0]!r}, expected names. Take another.'
        )


def load_from_http(filename: str, map_location=None, model_dir: str | None = None) -> dict:
    """Download a checkpoint to torch's hub folder and read it; mmengine's loader of URLs.

    Of several processes on a machine one downloads, and the others read what it left.

    Raises:
        CheckpointError: see :func:`load_from_local`.
    """
    folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(urlparse(filename).path))
    os.makedirs(folder, exist_ok=True)
    if _read_text(f'{path}.url') not in ('', filename):  # another file of the same name
        stem, suffix = os.path.splitext(path)
        path = f'{stem}-from-{hashlib.sha256(filename.encode()).hexdigest()[:12]}{suffix}'
    with lock(f'{path}.lock'):
        if not os.path.exists(path):
            digest = torch.hub.HASH_REGEX.search(os.path.basename(path))  # as in model-1a2b3c4d.pth
            torch.hub.download_url_to_file(filename, path, digest.group(1) if digest else None)
        if not _read_text(f'{path}.url'):
            with suppress(OSError), atomic_write(f'{path}.url') as begun:  # a folder that others filled
                begun.write_text(filename, encoding='utf-8')
    return load_from_local(path, map_location)


def _read_text(path: str) -> str:
    return Path(path).read_text(encoding='utf-8') if os.path.isfile(path) else ''


_LISTS = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
    'mmcls': get_mmcls_models,
}
"""Scheme -> mmengine's list of models by name."""


def load_by_name(filename: str, map_location=None) -> dict:
    """Download a checkpoint that mmengine knows by name, as ``torchvision://resnet50``, and read it.

    Raises:
        CheckpointError: an unknown name, or see :func:`load_from_local`.
    """
    scheme, _, name = filename.partition('://')
    known = _LISTS[scheme]()
    name = get_deprecated_model_names().get(name, name)
    if name not in known:
        raise CheckpointError(unknown_name(name, f'list of checkpoints of {scheme}://', known))
    place = known[name]
    if not place.startswith(('http://', 'https://')):
        return load_from_local(os.path.join(_get_mmengine_home(), place), map_location)
    checkpoint = load_from_http(place, map_location)
    return _process_mmcls_checkpoint(checkpoint) if scheme == 'mmcls' else checkpoint


def _nearby(filename: str) -> str:
    folder = os.path.dirname(filename) or '.'
    if not os.path.isdir(folder):
        return f' Nor does the folder {folder}.'
    found = sorted(f for f in os.listdir(folder) if f.endswith(('.pth', '.pt', '.safetensors')))
    return f' In {folder} there are: {", ".join(found[:8])}.' if found else f' There is no checkpoint in {folder}.'


def _why_unreadable(filename: str, error: Exception | str) -> str:
    forbidden = re.search(r'GLOBAL ([^\n]+?)(?: was not an allowed|\. Please use|\n|$)', str(error))
    if isinstance(error, UnpicklingError) and forbidden:
        return (
            f'Checkpoint {filename} is refused: besides weights it holds objects that run code when read '
            f'({forbidden.group(1)}). Nothing was run. If you trust its author, read it elsewhere and save its state '
            'dict alone with torch.save or safetensors.'
        )
    if str(error) == 'TorchScript':
        return (
            f'Checkpoint {filename} is a TorchScript archive, as OpenAI publishes CLIP. It holds CLIP alone, not a '
            'model trained here: name it as `pretrained` of the towers in the config, not as a checkpoint.'
        )
    size = os.path.getsize(filename) if os.path.isfile(filename) else 0
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].removesuffix('.')
    return (
        f'Checkpoint {filename} ({size:,} bytes) cannot be read: it is damaged, cut short or no checkpoint '
        f'({reason}). Copy or download it again, or name an earlier checkpoint.'
    )
