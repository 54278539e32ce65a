"""Masks for a folder of images, to train an ordinary segmentor on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.progress import track
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.clip.digest import file_digest, value_digest, weights_digest
from vlm_dense.datasets.checks import open_header
from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.forked import forked_context
from vlm_dense.engine.outputs import claim
from vlm_dense.errors import ConfigError, DataError, UserError
from vlm_dense.inference.common import check_batch_size
from vlm_dense.inference.images import load_image
from vlm_dense.inference.seg_inferencer import SegInferencer
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.methods.maskclip.head import ClassNames

IGNORE = 255
SUMMARY, LIST = 'pseudo_labels.json', 'labelled.txt'
NOTE = 'vlm_dense'
"""Name of the text in a mask's file that tells the run, the image and the labels it was written with."""
_IMAGE = 'picture'  # codespell:ignore picture
"""Key of the image's digest in a mask's note; masks that are written keep it."""
Job = tuple[str, str]
"""An image and its mask."""


@dataclass
class Outcome:
    """Outcome for an image: ``counts`` (256,) pixels a label, or ``reason`` why there is no mask."""

    image: str
    counts: np.ndarray | None = None
    new: bool = False
    reason: str | None = None


class Labeller(SegInferencer):
    """Writes masks; one in each process.

    Args:
        model, weights, device, classes, max_pixels: See :class:`SegInferencer`.
        thresh: Probability below which a pixel is ignored.

    Attributes:
        digest: Of all that decides on the labels: config, weights, names and ``thresh``.
    """

    def __init__(
        self,
        model: str,
        weights: str | None = None,
        device: str | None = None,
        classes: ClassNames | None = None,
        thresh: float = 0.0,
        max_pixels: int | None = MAX_PIXELS,
    ):
        super().__init__(model, weights, device, show_progress=False, max_pixels=max_pixels)
        self.thresh = thresh
        self._used = self.view(classes, thresh > 0)
        self.class_names = self._used.class_names
        if len(self.class_names) > IGNORE:
            raise ConfigError(
                f'{len(self.class_names)} classes do not fit into 8-bit masks, which have room for {IGNORE}.'
            )
        parts = (self.cfg.model.to_dict(), self.cfg.get('test_pipeline'), self.class_names, thresh)
        self.digest = value_digest([parts, weights_digest(self.model)])

    def label(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Label images without a valid mask; errors are part of the outcome."""
        outcomes, todo, pixels = [], [], []
        for image, mask in jobs:
            try:
                counts = kept_counts(image, mask, self.digest)
                if counts is None:
                    pixels.append(load_image(image, self.max_pixels))
                    todo.append((image, mask))
                else:
                    outcomes.append(Outcome(image, counts))
            except Exception as error:  # files can be broken in any way, and one must not stop the others
                outcomes.append(Outcome(image, reason=_reason(error)))
        return outcomes + self._label(todo, pixels)

    def _label(self, jobs: list[Job], pixels: list[np.ndarray]) -> list[Outcome]:
        if not jobs:
            return []
        try:
            maps = self._segment(pixels)
        except Exception as error:
            if len(jobs) == 1:
                return [Outcome(jobs[0][0], reason=_reason(error))]
            return [o for job, one in zip(jobs, pixels, strict=True) for o in self._label([job], [one])]
        return [
            Outcome(image, _write(m, mask, self.digest, image), new=True)
            for (image, mask), m in zip(jobs, maps, strict=True)
        ]

    def _segment(self, pixels: list[np.ndarray]) -> list[np.ndarray]:
        """Masks (H, W), uint8, of images (H, W, 3)."""
        scored = self.thresh > 0
        found = self.postprocess(self.forward(self.preprocess(pixels), self._used), self._used, scored)
        masks = [one['predictions'].astype(np.uint8) for one in found]
        if scored:
            for mask, one in zip(masks, found, strict=True):
                mask[one['scores'].max(axis=0) < self.thresh] = IGNORE
        return masks


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
    """Write a mask for every image below a folder.

    A mask is an 8-bit PNG of the size of its image, as ``LoadAnnotations`` reads it: label indices, 255 where the
    model is less sure than ``thresh``. It lies in ``out`` where the image lies in ``images``. A text in its file
    tells what it was made from. Masks that are there, whole, and made from this image by this model are kept, so a
    stopped run resumes where it was; a replaced image is labelled again; each is written under
    another name first, so there is never half a mask. Images that cannot be used are listed and left out.

    Besides masks, ``out`` gets ``pseudo_labels.json``, the summary, and ``labelled.txt``, the images that have a
    mask, one a line without suffix: the ``ann_file`` of a data set of mmseg.

    Args:
        model, weights, classes: Of :class:`SegInferencer`; MaskCLIP needs no weights.
        images: Folder; searched with the folders in it.
        out: Folder, made if it does not exist.
        thresh: Least probability of a label, 0 to 1.
        batch_size: Images at a time. Above 1 the model's data preprocessor must take images of different size.
        processes: Each has the model; on GPUs they take turns.
        device: Default: GPUs if there are some.
        show_progress: Draw a bar.
        max_pixels: Height x width above which an image is left out; ``None``: no limit.

    Returns:
        The summary: ``model``, ``weights``, ``classes``, ``thresh``, ``digest`` of config and weights, ``masks``,
        ``new``, ``kept`` (share of pixels that
        are not ignored), ``histogram`` (class -> share of the pixels kept), ``images`` (class -> images that show it)
        and ``bad_files`` (path -> reason).

    Raises:
        ConfigError: an invalid option.
        DataError: no image, two images with one mask, masks that another run or program wrote, a place that
            cannot be written, or nothing that could be labelled.
    """
    check_batch_size(batch_size)
    if processes < 1:
        raise ConfigError(f'processes must be at least 1, found {processes}.')
    if not 0 <= thresh < 1:
        raise ConfigError(f'thresh is a probability, from 0 up to but without 1, found {thresh}.')
    images, out = Path(images), Path(out)
    jobs = find_jobs(images, out)
    labeller = Labeller(model, weights, device, classes, thresh, max_pixels)
    run = dict(
        model=str(model),
        weights=weights,
        classes=list(labeller.class_names),
        thresh=thresh,
        digest=labeller.digest,
    )
    _start(out, run)
    _refuse_foreign(jobs, out, labeller.digest)
    batches = [jobs[i : i + batch_size] for i in range(0, len(jobs), batch_size)]
    if processes == 1:
        results = map(labeller.label, batches)
    else:
        del labeller
        results = _in_processes(batches, processes, (model, weights, device, classes, thresh, max_pixels))
    if show_progress:
        results = track(results, 'Pseudo-labels', total=len(batches))
    return _finish(out, images, run, (outcome for batch in results for outcome in batch))


# --- files ----------------------------------------------------------------------------------------------------


def find_jobs(images: Path, out: Path) -> list[Job]:
    """Images below ``images``, ``out`` excepted, and where their masks go, in the order of their paths."""
    if not images.is_dir():
        raise DataError(f'There is no folder of images at {images.absolute()}.')
    own = out.resolve()
    if images.resolve() == own:
        raise DataError(f'Masks cannot lie among the images of {images}: give another folder for them.')
    jobs: dict[str, str] = {}
    for folder, folders, files in os.walk(images):
        folders[:] = sorted(f for f in folders if (Path(folder) / f).resolve() != own)
        for name in sorted(files):
            if not name.lower().endswith(IMG_EXTENSIONS):
                continue
            image = Path(folder) / name
            mask = str(out / image.relative_to(images).with_suffix('.png'))
            if mask in jobs:
                raise DataError(f'{jobs[mask]} and {image} would share the mask {mask}. Rename one of them.')
            jobs[mask] = str(image)
    if not jobs:
        raise DataError(f'{images} holds no image; looked for files ending in {", ".join(IMG_EXTENSIONS)}.')
    return [(image, mask) for mask, image in jobs.items()]


def kept_counts(image: str, mask: str, digest: str) -> np.ndarray | None:
    """Pixels of each label (256,) of a complete mask that is kept; None if there is none.

    Raises:
        DataError: the labels are not those that were written.
    """
    if not os.path.isfile(mask):
        return None
    try:
        with open_header(mask) as png:
            note, labels = _note_of(png), np.asarray(png)
    except (OSError, SyntaxError, ValueError):
        return None
    if note is None or note['run'] != digest:
        return None
    if note['labels'] != value_digest(labels.tobytes()):
        raise DataError(f'{mask} was changed after it was written. Remove it to have the image labelled again.')
    if note[_IMAGE] != file_digest(image):
        return None
    return np.bincount(labels.ravel(), minlength=256)


def _note_of(png: Image.Image) -> dict | None:
    """Metadata of a mask; None if it is no mask of ours."""
    try:
        note = json.loads(getattr(png, 'text', {})[NOTE])
        return note if {'run', _IMAGE, 'labels'} <= set(note) else None
    except (KeyError, TypeError, ValueError):
        return None


def _refuse_foreign(jobs: Sequence[Job], out: Path, digest: str) -> None:
    """Refuse to replace or adopt masks of other programs and runs; one that cannot be read must be noted as ours."""
    foreign, claimed = [], []
    for _, mask in jobs:
        if not os.path.isfile(mask):
            claimed.append(mask)
        else:
            try:
                with open_header(mask) as png:
                    note = _note_of(png)
            except (OSError, SyntaxError, ValueError):
                claimed.append(mask)
                continue
            if note is None or note['run'] != digest:
                foreign.append(mask)
    if foreign:
        raise DataError(
            f'{out} holds {len(foreign)} masks that this model did not write, as {foreign[0]}. Give another folder, or '
            'remove them.'
        )
    claim(claimed)


def _write(labels: np.ndarray, path: str, digest: str, image: str) -> np.ndarray:
    """Write a mask, whole or not at all; returns the pixels of each label (256,)."""
    note = PngInfo()
    origin = {'run': digest, _IMAGE: file_digest(image), 'labels': value_digest(labels.tobytes())}
    note.add_text(NOTE, json.dumps(origin))
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path) as begun:
            Image.fromarray(labels).save(begun, 'PNG', pnginfo=note)
    except OSError as error:
        raise _unwritable(path, error) from error
    return np.bincount(labels.ravel(), minlength=256)


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as begun:
            begun.write_text(text, encoding='utf-8')
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: str | Path, error: OSError) -> DataError:
    return DataError(f'{path} cannot be written: {error.strerror or error}. What is labelled is kept: run it again.')


def _start(out: Path, run: dict) -> None:
    """Note what makes the masks in ``out``; refuse to mix them with those of another run."""
    path = out / SUMMARY
    if path.is_file():
        before = _read_summary(path)
        unlike = [k for k, v in run.items() if before.get(k) != v]
        if unlike:
            found = ', '.join(f'{k}={before.get(k)!r} (now {run[k]!r})' for k in unlike)
            raise DataError(f'{out} holds the masks of another run: {found}. Give another folder, or remove this one.')
        return
    claim([path, out / LIST])
    _write_text(path, json.dumps(run, indent=2))


def _read_summary(path: Path) -> dict:
    try:
        summary = json.loads(path.read_text(encoding='utf-8'))
        if isinstance(summary, dict):
            return summary
        error = f'expected an object, found {type(summary).__name__}'
    except ValueError as damage:
        error = str(damage)
    raise DataError(f'{path} is damaged: {error}. Remove it; masks of the same model are kept.')


def _finish(out: Path, images: Path, run: dict, outcomes: Iterable[Outcome]) -> dict:
    """Sum up outcomes as they come; write the summary and the list."""
    total, shown = np.zeros(256, np.int64), np.zeros(256, np.int64)
    stems, bad, new = [], {}, 0
    for outcome in outcomes:
        if outcome.counts is None:
            bad[outcome.image] = outcome.reason
            continue
        total += outcome.counts
        shown += outcome.counts > 0
        new += outcome.new
        stems.append(Path(outcome.image).relative_to(images).with_suffix('').as_posix())
    if not stems:
        path, reason = next(iter(bad.items()))
        raise DataError(f'None of the {len(bad)} images of {images} could be labelled. {path}: {reason}')
    labelled, names = int(total[:IGNORE].sum()), run['classes']
    summary = dict(
        run,
        masks=len(stems),
        new=new,
        kept=labelled / int(total.sum()),
        histogram={name: int(total[k]) / max(labelled, 1) for k, name in enumerate(names)},
        images={name: int(shown[k]) for k, name in enumerate(names)},
        bad_files=bad,
    )
    _write_text(out / SUMMARY, json.dumps(summary, indent=2))
    _write_text(out / LIST, ''.join(f'{stem}\n' for stem in sorted(stems)))
    return summary


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- processes ------------------------------------------------------------------------------------------------

_labeller: Labeller | None = None


def _begin(places, threads: int, model, weights, device, *others) -> None:
    global _labeller
    torch.set_num_threads(threads)
    place = places.get()
    if device is None and torch.cuda.is_available():
        device = f'cuda:{place % torch.cuda.device_count()}'
    _labeller = Labeller(model, weights, device, *others)


def _work(jobs: list[Job]) -> list[Outcome]:
    return _labeller.label(jobs)


def _in_processes(batches: Iterable[list[Job]], processes: int, arguments: tuple) -> Iterator[list[Outcome]]:
    context = forked_context(__name__)
    places = context.SimpleQueue()
    for place in range(processes):
        places.put(place)
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(processes, context, _begin, (places, threads, *arguments))
    try:
        yield from pool.map(_work, batches)
    except BrokenProcessPool as error:
        raise UserError(
            'A process ended before its time, most likely for want of memory. What is labelled is kept: run the same '
            'again, with fewer processes or a smaller batch_size.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
