"""What the inferencers share: models by name, pictures in, weights, files out."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mmengine.config import Config
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.datasets.checks import LoadImage
from vlm_dense.engine.checkpoint import CheckpointFitHook, read_checkpoint
from vlm_dense.engine.configs import find_config, list_configs
from vlm_dense.engine.launch import load_config
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import unknown_name

CONFIGS = Path(__file__).parents[2] / 'configs'
"""The repository's configs; absent where only the package is installed."""

_LOADING = ('DrawScene', 'LoadImage', 'LoadImageFromFile', 'LoadAnnotations', 'CheckSeg', 'FilterAnnotations')
_VIEW = 480, 1600  # pixels


def named_config(name: str, others: Collection[str] = ()) -> Config:
    """The config at a path, or of that name in the repository.

    Args:
        name: Path ending in ``.py``, or the name of a file in ``configs/`` without it.
        others: Further names that exist, for the message.

    Raises:
        ConfigError: there is none.
    """
    if name.endswith('.py'):
        return load_config(name)
    path = find_config(CONFIGS / f'{name}.py')
    if not path.is_file():
        known = {*others, *(p.stem for p in list_configs(CONFIGS))}
        raise ConfigError(unknown_name(name, 'list of models of vlm_dense', known))
    return load_config(str(path))


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


def preparing_steps(cfg: Config) -> list[dict]:
    """The test pipeline of a config without what reads pictures and annotations.

    Raises:
        ConfigError: there is none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    steps = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not steps:
        raise ConfigError('The config has no test_pipeline, so it is unknown how pictures are to be prepared.')
    return [t for t in steps if t['type'].rpartition('.')[2] not in _LOADING]


def picture_list(inputs) -> list[str | np.ndarray]:
    """Paths and arrays; a folder stands for the pictures in it, in the order of their names."""
    inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    inputs = [os.fspath(x) if isinstance(x, os.PathLike) else x for x in inputs]
    if len(inputs) == 1 and isinstance(inputs[0], str) and os.path.isdir(inputs[0]):
        folder = inputs[0]
        names = sorted(f for f in os.listdir(folder) if f.lower().endswith(IMG_EXTENSIONS))
        inputs = [os.path.join(folder, f) for f in names]
        if not inputs:
            raise DataError(f'{folder} holds no picture; looked for files ending in {", ".join(IMG_EXTENSIONS)}.')
    if not inputs:
        raise DataError('Expected a picture, found an empty list.')
    return inputs


def load_picture(source: str | np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) BGR as a viewer shows it: turned as its EXIF entry says."""
    if isinstance(source, str):
        return LoadImage().transform(dict(img_path=source))['img']
    if not isinstance(source, np.ndarray):
        raise DataError(f'Expected the path of a picture or an array, found {type(source).__name__}.')
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise DataError(f'Expected a picture as uint8 (H, W, 3), BGR, found {source.dtype} {source.shape}.')
    return source


def view_side(shape: Sequence[int]) -> int:
    """Longer side in pixels of a saved picture: small ones are enlarged, large ones reduced."""
    return min(max(*shape[:2], _VIEW[0]), _VIEW[1])


def file_names(inputs: Sequence[str | np.ndarray]) -> list[str]:
    """Name without suffix of the files of each picture; those that would share a name are numbered."""
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
    """Write a file and the folders above it.

    Args:
        write: Called with the path.

    Raises:
        DataError: it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path)
    except OSError as error:
        raise DataError(f'{path} cannot be written: {error.strerror}.') from error
