"""Common code of the inferencers: models by name, input images, weights, output files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image, ImageOps
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.datasets.checks import LoadImage, check_pixels
from vlm_dense.engine.checkpoints.fit import CheckpointFitHook, read_checkpoint
from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.registry import registered

_VIEW = 480, 1600  # pixels


def load_weights(model: nn.Module, weights: str | None, caller: str) -> Sequence[str] | None:
    """Load a checkpoint into a model; without one, the model must have no weights that training sets.

    Args:
        caller: Name of the inferencer, for the message.

    Returns:
        The names of the classes that the checkpoint was trained for, if it tells.

    Raises:
        ConfigError: no checkpoint for a model that needs one.
        CheckpointError: a checkpoint that does not fit.
    """
    if weights is None:
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        if trained:
            raise ConfigError(
                f'The model has {len(trained)} weights that training sets ({", ".join(trained[:3])}, ...): name a '
                f'checkpoint, as in {caller}(CONFIG, weights=CHECKPOINT).'
            )
        return None
    checkpoint = read_checkpoint(weights, map_location='cpu')
    names = (checkpoint.get('meta') or {}).get('dataset_meta', {}).get('classes')
    CheckpointFitHook().after_load_checkpoint(SimpleNamespace(model=model), checkpoint)
    return names


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


def image_list(inputs) -> list[str | np.ndarray]:
    """Paths and arrays; a folder stands for the images in it, in the order of their names.

    Images of PIL become arrays, turned as their EXIF entry says; grey ones get three equal channels.
    """
    inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    inputs = [_as_array(os.fspath(x) if isinstance(x, os.PathLike) else x) for x in inputs]
    if len(inputs) == 1 and isinstance(inputs[0], str) and os.path.isdir(inputs[0]):
        folder = inputs[0]
        names = sorted(f for f in os.listdir(folder) if f.lower().endswith(IMG_EXTENSIONS))
        inputs = [os.path.join(folder, f) for f in names]
        if not inputs:
            raise DataError(f'{folder} holds no image; looked for files ending in {", ".join(IMG_EXTENSIONS)}.')
    if not inputs:
        raise DataError('Expected an image, found an empty list.')
    return inputs


def _as_array(source):
    if isinstance(source, Image.Image):
        return _as_array(_of_pil(source))
    if isinstance(source, np.ndarray) and (source.ndim == 2 or source.shape[2:] == (1,)):
        return np.repeat(source.reshape(*source.shape[:2], 1), 3, axis=2)
    return source


def _of_pil(image: Image.Image) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) BGR of an image of PIL; 16 bits become 8 as they do of a file, by their upper half."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                raise DataError(
                    f'The image has values from {values.min()} to {values.max()}; expected 0 to 65535 in the mode '
                    f'{image.mode!r}. Bring it to 8 bits first.'
                )
            return (values >> 8).astype(np.uint8)
        if image.mode == 'F':
            raise DataError('The image has floating-point values (mode F). Bring it to 8 bits first.')
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except (OSError, SyntaxError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f'The image of PIL cannot be read: it is closed or cut short ({error}).') from error


def load_image(source: str | np.ndarray, max_pixels: int | None = MAX_PIXELS) -> np.ndarray:
    """uint8 (H, W, 3) BGR, rotated by its EXIF entry.

    Args:
        source: Path or array.
        max_pixels: Height x width above which it is refused; ``None``: no limit.

    Raises:
        DataError: no image, or one that is too large.
    """
    if isinstance(source, str):
        load = LoadImage(max_pixels)
        load.remedy = 'Give another file.'
        return load.transform(dict(img_path=source))['img']
    if not isinstance(source, np.ndarray):
        raise DataError(f'Expected the path of an image or an array, found {type(source).__name__}.')
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise DataError(f'Expected an image as uint8 (H, W, 3), BGR, found {source.dtype} {source.shape}.')
    check_pixels(source.shape[1::-1], max_pixels, 'The image')
    return source


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


def file_names(inputs: Sequence[str | np.ndarray]) -> list[str]:
    """Name without suffix of the files of each image; those that would share a name are numbered."""
    names: dict[str, None] = {}
    for i, source in enumerate(inputs):
        stem = name = Path(source).stem if isinstance(source, str) else f'{i:08d}'
        number = 1
        while name in names:
            number += 1
            name = f'{stem}_{number}'
        names[name] = None
    return list(names)


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
