"""Masks for a folder of images, to train an ordinary segmentor on: the program ``label`` under its older name."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.forked import forked_context
from vlm_dense.errors import ConfigError, DataError, UserError
from vlm_dense.inference.bulk.run import INDEX, NOTES, run
from vlm_dense.inference.bulk.sources import folder_items
from vlm_dense.inference.bulk.worker import Worker
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.methods.maskclip.head import ClassNames

SUMMARY, LIST = 'pseudo_labels.json', 'labelled.txt'
_PART = 32
"""Images of a part: what a stop costs at most."""


def pseudo_label(
    model: str,
    weights: str | None,
    images: str | os.PathLike,
    out: str | os.PathLike,
    classes: ClassNames | None = None,
    thresh: float = 0.0,
    batch_size: int = 1,
    processes: int = 1,
    device: str | None = None,
    show_progress: bool = True,
    max_pixels: int | None = MAX_PIXELS,
) -> dict:
    """Write a mask for every image below a folder: :func:`vlm_dense.inference.bulk.run.run` with its check.

    A mask is an 8-bit PNG of the size of its image, as ``LoadAnnotations`` reads it: label indices, 255 where the
    model is less sure than ``thresh``. It lies in ``out`` where the image lies in ``images``. Parts of 32 images that
    are done are kept, so a stopped run resumes where it was; a part with a replaced image or without one of its masks
    is done again; each mask is written under another name first, so there is never half a mask. Images that cannot be
    used are listed and left out.

    Besides what ``label`` writes, ``out`` gets ``pseudo_labels.json``, the summary, and ``labelled.txt``, the images
    that have a mask, one a line without suffix: the ``ann_file`` of a data set of mmseg.

    Args:
        model, weights, classes: Of :class:`~vlm_dense.inference.SegInferencer`; MaskCLIP needs no weights.
        images: Folder; searched with the folders in it.
        out: Folder, made if it does not exist.
        thresh: Least probability of a label, 0 to 1.
        batch_size: Images at a time.
        processes: Each has the model and a share of the parts; on GPUs they take turns.
        device: Default: GPUs if there are some.
        show_progress: Print a line a part.
        max_pixels: Height x width above which an image is left out; ``None``: no limit.

    Returns:
        The summary: ``model``, ``weights``, ``classes``, ``thresh``, ``digest`` of config and weights, ``masks``,
        ``new`` (those written now), ``kept`` (share of pixels that are not ignored), ``histogram`` (class -> share of
        the pixels kept), ``images`` (class -> images that show it) and ``bad_files`` (path -> reason).

    Raises:
        ConfigError: an invalid option.
        DataError: no image, two images with one mask, masks that another run or program wrote, a place that
            cannot be written, or nothing that could be labelled.
    """
    if processes < 1:
        raise ConfigError(f'processes must be at least 1, found {processes}.')
    images, out = os.fspath(images), Path(out)
    if not os.path.isdir(images):
        raise DataError(f'There is no folder of images at {os.path.abspath(images)}.')
    options = dict(classes=classes, thresh=thresh, batch_size=batch_size, max_pixels=max_pixels)
    arguments = ((model, weights, device, options), images, out, show_progress)
    before = _manifests(out)
    if processes == 1:
        _work(*arguments, 0, 1)
    else:
        _in_processes(processes, arguments)
    found = json.loads((out / INDEX).read_text(encoding='utf-8', errors='surrogateescape'))
    keys = {item.key: item.image for item in folder_items(images, out)}
    bad = {keys[key]: reason for key, reason in found['bad_files'].items()}
    if not found['images']:
        path, reason = next(iter(bad.items()))
        raise DataError(f'None of the {len(bad)} images of {images} could be labelled. {path}: {reason}')
    new = [path for path, time in _manifests(out).items() if before.get(path) != time]
    summary = dict(
        model=str(model),
        weights=weights,
        **{name: found[name] for name in ('classes', 'thresh', 'digest')},
        masks=found['images'],
        new=sum(json.loads(path.read_text(encoding='utf-8'))['images'] for path in new),
        kept=found['kept'],
        histogram=found['histogram'],
        images=found['images_with'],
        bad_files=bad,
    )
    listed = sorted(key for key in keys if key not in found['bad_files'])
    _write_text(out / SUMMARY, json.dumps(summary, indent=2))
    _write_text(out / LIST, ''.join(f'{key}\n' for key in listed))
    return summary


def _manifests(out: Path) -> dict[Path, int]:
    """Notes of finished parts, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in (out / NOTES).glob('[0-9]*.json')}


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as begun:
        begun.write_text(text, encoding='utf-8', errors='surrogateescape')


def _work(model: tuple, images: str, out: Path, show_progress: bool, number: int, count: int) -> None:
    """Do a share."""
    name, weights, device, options = model
    if count > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
        if device is None and torch.cuda.is_available():
            device = f'cuda:{number % torch.cuda.device_count()}'
    told = (lambda line: print(line, flush=True)) if show_progress else None
    worker = Worker(name, weights, device=device, **options)
    run(worker, images, out, 'png', (number, count), _PART, told=told, check=True)


def _in_processes(processes: int, arguments: tuple) -> None:
    with ProcessPoolExecutor(processes, forked_context(__name__)) as pool:
        shares = [pool.submit(_work, *arguments, number, processes) for number in range(processes)]
        try:
            for share in shares:
                share.result()
        except BrokenProcessPool as error:
            raise UserError(
                'A process ended before its time, most likely for want of memory. What is labelled is kept: run the '
                'same again, with fewer processes or a smaller batch_size.'
            ) from error
