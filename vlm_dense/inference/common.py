"""Common code of the inferencers: checks, progress, output files."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence

import torch
from mmengine.config import Config
from mmengine.infer.infer import BaseInferencer
from mmengine.registry import MODELS
from rich.progress import track

from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import registered

_VIEW = 480, 1600  # pixels


class Listing:
    """What mmengine's inferencers show of themselves and of the models that they take; printed nowhere."""

    @staticmethod
    def list_models(scope: str | None = 'vlm_dense', patterns: str = '.*') -> list[str]:
        """Names in the metafiles of a package, as 'vlm_dense' or 'mmseg', that match a regular expression."""
        root = BaseInferencer._get_repo_or_mim_dir(scope or 'vlm_dense')
        found = BaseInferencer._get_models_from_metafile(root)
        names = (name for model in found for name in (model['Name'], *model.get('Alias', ())))
        return sorted(name for name in names if re.match(patterns, name))

    def __repr__(self) -> str:
        names = self.class_names
        shown = 'the names of each call' if names is None else f'{len(names)} classes: {", ".join(names[:5])}'
        model = type(self.model).__name__
        return f'{type(self).__name__}({model}, {shown}{", ..." if names and len(names) > 5 else ""})'


def check_task(cfg: Config, base: str, what: str, caller: str) -> None:
    """Look whether a model does what it is asked for.

    Args:
        cfg: Config of the model.
        base: Name of a class that it must have among its bases.
        what: The same in words.
        caller: Who asks, for the message.

    Raises:
        ConfigError: it is a model of another task.
    """
    kind = registered(MODELS, cfg.model['type'])
    if not any(each.__name__ == base for each in getattr(kind, '__mro__', ())):
        raise ConfigError(
            f'{os.path.basename(cfg.filename or "The model")} is a {kind.__name__}, which is no {what}; {caller} need '
            f'one. vlm-dense models lists models by task, vlm_dense.get_model builds them all.'
        )


def check_device(device: str | None) -> str | None:
    """The device as it was given.

    Raises:
        ConfigError: no device of torch's, or one that this machine has not.
    """
    if device is None:
        return None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        found = f'{count} GPUs (cuda:0 to cuda:{count - 1})' if count > 1 else f'{count} GPU' if count else 'no GPU'
        raise ConfigError(
            f'The device {device!r} cannot be used: {str(error).splitlines()[0]} This machine has {found}; leave the '
            'device out, or take cpu.'
        ) from error
    return device


def check_batch_size(batch_size: int) -> None:
    """Raise a :class:`ConfigError` if no batch has this size."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f'batch_size must be an integer of at least 1, found {batch_size!r}.')


def view_side(shape: Sequence[int]) -> int:
    """Longer side in pixels of a saved image: small ones are enlarged, large ones reduced."""
    return min(max(*shape[:2], _VIEW[0]), _VIEW[1])


def progress(steps: Sequence, shown: bool) -> Iterable:
    """The steps, with a bar while they are gone through; none for a single step or in another thread.

    It goes when they are done or fail.
    """
    if not shown or len(steps) < 2 or threading.current_thread() is not threading.main_thread():
        return steps
    return track(steps, description='Inference', transient=True)


def save(write: Callable[[str], None], path: str) -> None:
    """Write a file, whole or not at all, and the folders above it.

    Args:
        write: Called with a path of the same suffix.

    Raises:
        DataError: it cannot be written, or would replace a file of somebody else; what was there before stays.
    """
    claim([path])
    try:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        with atomic_write(path) as begun:
            write(str(begun))
    except OSError as error:
        raise DataError(f'{path} cannot be written: {error.strerror or error}.') from error
