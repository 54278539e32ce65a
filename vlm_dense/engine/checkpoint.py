"""Checkpoints: read without running code, loaded only where they fit, saved without frozen weights.

Importing this module makes mmengine read checkpoints with :func:`load_from_local` and :func:`load_from_http`,
whatever the way to them (``load_from``, resume, test, ``init_cfg``, inferencers).
"""

from __future__ import annotations

import codecs
import os
import re
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vlm_dense.clip.loading import allowed_in_pickles
from vlm_dense.errors import CheckpointError
from vlm_dense.registry import HOOKS

_META_KEY = 'frozen_weights'


# --- reading --------------------------------------------------------------------------------------------------


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
    """What numpy's scalars and arrays are rebuilt with, under the names of numpy 2 and 1."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    functions = []
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        for name in ('_reconstruct', 'scalar'):
            real = getattr(multiarray, name)
            functions.append(_known_as(module, name)(lambda *args, real=real: real(*args)))
    return functions


# what mmengine's checkpoints hold beyond tensors: log history, numpy scalars and arrays, slices
_ALLOWED = [slice, codecs.encode, np.ndarray, np.dtype, HistoryBuffer, _history_method, *_numpy_functions()]
_ALLOWED += {type(np.dtype(kind)) for kind in '?bBhHiIlLqQefdU'}


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
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise CheckpointError(f'Checkpoint {filename} does not exist.{_nearby(filename)}')
    try:
        if filename.endswith('.safetensors'):
            from safetensors.torch import load_file

            checkpoint = dict(meta={}, state_dict=load_file(filename))
            return checkpoint if map_location is None else _to(checkpoint, map_location)
        if tarfile.is_tarfile(filename):  # torch up to 2.5 would run code in one
            raise ValueError('a tar archive, the format of torch before 0.1.10')
        if zipfile.is_zipfile(filename):  # torch does not look at the check sums
            with zipfile.ZipFile(filename) as archive:
                if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                    raise ValueError('TorchScript')
                broken = archive.testzip()
            if broken:
                raise ValueError(f'wrong check sum of {broken}')
        with allowed_in_pickles(_ALLOWED):
            checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(_why_unreadable(filename, error)) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'Checkpoint {filename} holds a {type(checkpoint).__name__}; expected a dict of weights or a checkpoint '
            'of mmengine, which is a dict with the key "state_dict".'
        )
    return checkpoint


def load_from_http(filename: str, map_location=None, model_dir: str | None = None) -> dict:
    """Download a checkpoint to torch's hub folder, once per machine, and read it; mmengine's loader of URLs."""
    with allowed_in_pickles(_ALLOWED):
        try:
            return torch.hub.load_state_dict_from_url(filename, model_dir, map_location, weights_only=True)
        except UnpicklingError as error:
            raise CheckpointError(_why_unreadable(filename, error)) from error


CheckpointLoader.register_scheme('', load_from_local, force=True)
CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)


def _to(checkpoint: dict, device) -> dict:
    checkpoint['state_dict'] = {k: v.to(device) for k, v in checkpoint['state_dict'].items()}
    return checkpoint


def _nearby(filename: str) -> str:
    folder = os.path.dirname(filename) or '.'
    if not os.path.isdir(folder):
        return f' Nor does the folder {folder}.'
    found = sorted(f for f in os.listdir(folder) if f.endswith(('.pth', '.pt', '.safetensors')))
    return f' In {folder} there are: {", ".join(found[:8])}.' if found else f' There is no checkpoint in {folder}.'


def _why_unreadable(filename: str, error: Exception) -> str:
    forbidden = re.search(r'GLOBAL ([^\n]+?)(?: was not an allowed|\. Please use|\n|$)', str(error))
    if isinstance(error, UnpicklingError) and forbidden:
        return (
            f'Checkpoint {filename} is refused: besides weights it holds objects that run code when read '
            f'({forbidden.group(1)}). Nothing was run. If you trust its author, read it elsewhere and save its state '
            'dict alone with torch.save or safetensors.'
        )
    if 'TorchScript' in str(error):
        return (
            f'Checkpoint {filename} is a TorchScript archive, as OpenAI publishes CLIP. It holds CLIP alone, not a '
            'model trained here: name it as `pretrained` of the towers in the config, not as a checkpoint.'
        )
    size = os.path.getsize(filename) if os.path.isfile(filename) else 0
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return (
        f'Checkpoint {filename} ({size:,} bytes) cannot be read: it is damaged, cut short or no checkpoint '
        f'({reason}). Copy or download it again, or name an earlier checkpoint.'
    )


# --- fitting --------------------------------------------------------------------------------------------------


def _bare_model(runner) -> nn.Module | None:
    """The model without DDP and test-time augmentation around it; None where weights are sharded (FSDP, DeepSpeed)."""
    model = runner.model
    while isinstance(model, (DistributedDataParallel, BaseTTAModel)):
        model = model.module
    return None if is_model_wrapper(model) else model


def _fingerprint(tensor: Tensor) -> list[float]:
    """Sum and sum of absolute values: alike wherever the same weights were loaded, resized or not."""
    values = tensor.detach().double()
    return [values.sum().item(), values.abs().sum().item()]


def _same(a: Iterable[float], b: Iterable[float]) -> bool:
    (sum_a, size_a), (sum_b, size_b) = a, b
    tolerance = 1e-5 * max(size_a, size_b)
    return abs(sum_a - sum_b) <= tolerance and abs(size_a - size_b) <= tolerance


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuse a checkpoint that does not fit the model, where mmengine would load the part that does.

    Also puts the frozen weights that :class:`FrozenWeightsHook` left out back into what was read, taking them from
    the model as built, after a look that they are the weights the checkpoint was trained with.

    To load a part on purpose (other classes, another head), take this hook out of ``custom_hooks``.

    Raises:
        CheckpointError: keys missing, unexpected or of another shape; other frozen weights; weights alone where
            training is to be resumed.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which reads the state dict

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Make ``checkpoint`` fit, or refuse it."""
        model = _bare_model(runner)
        if model is None:
            return
        if 'state_dict' not in checkpoint:  # weights alone, as torch.save(model.state_dict())
            weights = OrderedDict(checkpoint)
            checkpoint.clear()
            checkpoint.update(meta={}, state_dict=weights)
        self._check_resumable(runner, checkpoint)
        state_dict = checkpoint['state_dict']
        if state_dict and all(k.startswith('module.') for k in state_dict):
            state_dict = checkpoint['state_dict'] = OrderedDict((k[7:], v) for k, v in state_dict.items())
        self._restore_frozen(model, checkpoint)
        self._check_fit(model, state_dict)

    @staticmethod
    def _check_resumable(runner, checkpoint: dict) -> None:
        if not getattr(runner, '_resume', False):
            return
        absent = [key for key in ('meta', 'optimizer', 'message_hub') if not checkpoint.get(key)]
        if absent:
            raise CheckpointError(
                f'Training cannot be resumed from this checkpoint: it holds no {", ".join(absent)}. Checkpoints that '
                'tools/train.py saved hold them. To start anew from its weights, use --load-from in place of --resume.'
            )

    @staticmethod
    def _restore_frozen(model: nn.Module, checkpoint: dict) -> None:
        frozen = checkpoint.get('meta', {}).get(_META_KEY, {})
        own = model.state_dict()
        lost = [k for k in frozen if k not in own]
        changed = [k for k in frozen if k in own and not _same(frozen[k], _fingerprint(own[k]))]
        if lost or changed:
            raise CheckpointError(
                f'The checkpoint was trained on top of {len(frozen)} frozen tensors that it does not hold, and this '
                f'model has others: {_first(lost + changed)} differ. Build the model with the weights of the '
                'training: the same arch, pretrained and frozen parts in the config.'
            )
        for key in frozen:
            checkpoint['state_dict'].setdefault(key, own[key])
            if 'ema_state_dict' in checkpoint:
                checkpoint['ema_state_dict'].setdefault(f'module.{key}', own[key])

    @staticmethod
    def _check_fit(model: nn.Module, state_dict: dict) -> None:
        shapes = []
        missing, unexpected = [], []
        try:
            missing, unexpected = model.load_state_dict(state_dict, strict=False)
        except RuntimeError as error:
            pattern = r'size mismatch for (\S+): .*?\[([\d, ]*)\]\).*?\[([\d, ]*)\]\)'
            shapes = [f'{k} ({a} in the file, {b} in the model)' for k, a, b in re.findall(pattern, str(error))]
            if not shapes:
                raise CheckpointError(f'The checkpoint does not fit the model: {error}') from error
        missing = [k for k in missing if not k.endswith('num_batches_tracked')]
        lines = [
            f'{len(keys)} {what}: {_first(keys)}'
            for what, keys in (
                ('missing from the checkpoint', missing),
                ('unknown to the model', unexpected),
                ('of another shape', shapes),
            )
            if keys
        ]
        if lines:
            raise CheckpointError(
                f'The checkpoint does not fit {type(model).__name__}. Of its {len(state_dict)} tensors:\n  '
                + '\n  '.join(lines)
                + '\nUse the config it was trained with. To load only what fits, take vlm_dense.CheckpointFitHook out '
                'of custom_hooks.'
            )


def _first(keys: list[str], count: int = 3) -> str:
    return ', '.join(keys[:count]) + (', ...' if len(keys) > count else '')


# --- saving ---------------------------------------------------------------------------------------------------


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _untrained(model: nn.Module) -> list[str]:
    """Keys of parameters without gradient, and of buffers of modules whose own parameters all are."""
    keys = []
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own or any(p.requires_grad for p in own.values()):
            keys += [f'{prefix}.{k}'.lstrip('.') for k, p in own.items() if not p.requires_grad]
        else:
            keys += [f'{prefix}.{k}'.lstrip('.') for k in (*own, *dict(module.named_buffers(recurse=False)))]
    return keys


@HOOKS.register_module()
class FrozenWeightsHook(Hook):
    """Leave frozen weights out of checkpoints where building the model from its config yields them anyway.

    The model is built once more before training. A tensor that is not trained and equals, bit for bit, that of the
    second model is left out; ``meta['frozen_weights']`` keeps its name and a fingerprint, so that
    :class:`CheckpointFitHook` finds it again and notices a different one. Frozen weights that a config cannot give
    back (drawn at random, loaded by ``init_cfg`` or ``load_from``, moved by a moving average) are saved as usual.
    """

    priority = 'LOWEST'  # after EMAHook, which swaps the weights that are saved

    def before_train(self, runner) -> None:
        """Note the frozen weights that the config alone yields."""
        self._reproducible: dict[str, int] = {}
        model = _bare_model(runner)
        keys = _untrained(model) if model is not None else []
        if not keys or not isinstance(runner.cfg.get('model'), dict):
            return
        with torch.random.fork_rng():
            torch.manual_seed(runner.seed + 1)  # what is drawn at random shall differ
            state, twin = np.random.get_state(), MODELS.build(runner.cfg.model)
            np.random.set_state(state)
        weights = twin.state_dict()
        self._reproducible = {k: _crc(weights[k]) for k in keys if k in weights}

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take the reproducible weights out of ``checkpoint``."""
        weights, ema, left_out = checkpoint['state_dict'], checkpoint.get('ema_state_dict', {}), {}
        for key, crc in self._reproducible.items():
            both = [t for t in (weights.get(key), ema.get(f'module.{key}')) if t is not None]
            if both and all(_crc(t) == crc for t in both):
                left_out[key] = _fingerprint(weights.pop(key))
                ema.pop(f'module.{key}', None)
        if left_out:
            checkpoint['meta'][_META_KEY] = left_out
