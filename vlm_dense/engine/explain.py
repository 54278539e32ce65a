"""Errors of a run caused by a value of its config, explained only where a check of the values confirms the cause.

Everything else keeps its traceback. Nothing heavy is imported before there is an error.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Mapping
from types import FrameType


def of_run(error: BaseException) -> str | None:
    """The message of an error that a pipeline or a head of the config causes, or None of any other.

    Args:
        error: As raised, with its traceback.
    """
    walked = list(traceback.walk_tb(error.__traceback__))
    frames = [frame for frame, _ in walked]
    if isinstance(error, KeyError) and frames:
        line = linecache.getline(frames[-1].f_code.co_filename, walked[-1][1])
        return _of_pipeline(error, frames, line)
    if isinstance(error, (IndexError, RuntimeError)):
        return _of_head(frames) or _of_batch(frames)
    return None


def _of_pipeline(error: KeyError, frames: list[FrameType], line: str) -> str | None:
    """A step that needs what none before it gave, or samples that no step packed."""
    from mmcv.transforms import BaseTransform
    from mmengine.dataset import Compose
    from mmengine.model import BaseDataPreprocessor

    key = error.args[0] if error.args else None
    last = frames[-1].f_locals
    samples = last.get('data')
    if isinstance(last.get('self'), BaseDataPreprocessor) and isinstance(samples, Mapping) and key not in samples:
        return (
            f'The samples of a data set have no {key!r}, found {", ".join(map(str, samples)) or "nothing"}. The last '
            'step of its pipeline must pack them, as PackSegInputs, PackDetInputs or vlm_dense.PackClsInputs.'
        )
    results = last.get('results')
    asked = isinstance(results, Mapping) and re.search(rf'results\[.{re.escape(str(key))}.\]', line)
    if isinstance(last.get('self'), BaseTransform) and asked and key not in results:
        steps = next((f.f_locals['self'].transforms for f in frames if isinstance(f.f_locals.get('self'), Compose)), [])
        names = ', '.join(type(step).__name__ for step in steps)
        return (
            f'The pipeline ({names}) cannot work: {type(last["self"]).__name__} needs {key!r}, which no step before it '
            f'gives. Images are loaded by vlm_dense.LoadImage, masks by LoadAnnotations.'
        )
    return None


def _of_head(frames: list[FrameType]) -> str | None:
    """A decode head with ``in_index`` or ``in_channels`` that do not match the backbone."""
    for frame in reversed(frames):
        head, maps = frame.f_locals.get('self'), frame.f_locals.get('inputs')
        if not hasattr(head, 'in_index') or not hasattr(head, 'in_channels') or not isinstance(maps, (list, tuple)):
            continue
        name, indices, channels = type(head).__name__, _listed(head.in_index), _listed(head.in_channels)
        absent = [i for i in indices if not -len(maps) <= i < len(maps)]
        if absent:
            return f'in_index={head.in_index} of {name}: there are {len(maps)} feature maps, 0 to {len(maps) - 1}.'
        given = [maps[i].shape[1] for i in indices]
        if given != channels and sum(given) != sum(channels):
            return (
                f'in_channels={head.in_channels} of {name}: the feature maps of in_index={head.in_index} have '
                f'{", ".join(map(str, given))} channels. Set in_channels to that.'
            )
    return None


def _listed(value) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _of_batch(frames: list[FrameType]) -> str | None:
    """Training images that are larger than the size to which mmseg pads them."""
    for frame in reversed(frames):
        images, size = frame.f_locals.get('inputs'), frame.f_locals.get('size')
        if frame.f_code.co_name != 'stack_batch' or not isinstance(images, (list, tuple)) or size is None:
            continue
        found = sorted({tuple(image.shape[-2:]) for image in images})
        if any(side > most for one in found for side, most in zip(one, size, strict=True)):
            return (
                f'model.data_preprocessor.size is {tuple(size)}, to which smaller images are padded, and this batch '
                f'has images of {found[-1][0]} x {found[-1][1]} (height x width). Give RandomCrop of the training '
                f'pipeline crop_size={tuple(size)}, or raise size.'
            )
    return None


def of_library(error: BaseException) -> str | None:
    """The message of a library that a component wants and that is not installed."""
    if not isinstance(error, ImportError):
        return None
    text = str(error)
    if not re.search(r'[Pp]lease (run|install)|pip install', text):
        return None
    return f'{text.splitlines()[0].rstrip(".")}. Or take the component that needs it out of the config.'
