"""A run over any number of images: part by part, several processes beside each other, stopped and continued."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from vlm_dense.clip.digest import file_digest, value_digest
from vlm_dense.engine.files import atomic_write, lock
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.inference.bulk.outputs import FORMATS, writer
from vlm_dense.inference.bulk.sources import Item, Part, check_apart, parts
from vlm_dense.inference.bulk.worker import Worker
from vlm_dense.inference.images import ImageBytes

NOTES = '.vlm_dense_parts'
"""Folder in that of the results: the run, a manifest a part, locks."""
INDEX = 'index.json'
_AHEAD = 4
"""Batches of the model that are decoded ahead."""


def run(
    worker: Worker,
    source: str | os.PathLike,
    out: str | os.PathLike,
    format: str | None = None,
    shard: tuple[int, int] = (0, 1),
    part_size: int = 1000,
    column: str | None = None,
    with_images: bool = False,
    told: Callable[[str], None] | None = None,
    check: bool = False,
) -> dict:
    """Write labels or features of all images of a source, or of a share of them.

    The input is cut into parts, the same ones in every process; share ``i`` of ``n`` has the parts ``i``, ``i + n``,
    ... A part that is done has a manifest, written whole after its results; the same call continues with the parts that
    have none. What is written depends neither on ``n`` nor on interruptions. Whoever finds all parts done writes
    ``index.json``.

    Args:
        worker: The model.
        source, part_size, column: As of :func:`vlm_dense.inference.bulk.sources.parts`.
        out: Folder, made if it is not there.
        format: One of :data:`~vlm_dense.inference.bulk.outputs.FORMATS`; default: a file an image.
        shard: (i, n), see above.
        with_images: Put the images beside their labels, for ``format='tar'``.
        told: Takes a line on each part.
        check: Read the images of finished parts again: a part is done again if one of them was replaced, or if a result
            is missing. What was replaced is known of parts that were written with ``check`` too.

    Returns:
        The index if all parts are done, else that of this share: ``images``, ``bad_files`` (key -> reason), ``parts``
        done, ``parts_in_all``, and of labels ``classes``, ``kept``, ``histogram`` (class -> share of the pixels kept).

    Raises:
        ConfigError: a format that the task has not, or a share that another process works on.
        DataError: no image, results of another run in ``out``, a place that cannot be written, or, with ``check``, a
            part to be done again of which results were changed by hand.
    """
    out, format = Path(out), format or FORMATS[worker.task][0]
    check_format(worker.task, format, with_images)
    number, count = shard
    if not 0 <= number < count:
        raise ConfigError(f'The shares of {count} are 0 to {count - 1}, found {number}.')
    about = dict(
        task=worker.task, format=format, with_images=with_images, part_size=part_size, digest=worker.digest,
        classes=worker.class_names, **(dict(thresh=worker.thresh) if worker.task == 'label' else {}),
    )  # fmt: skip
    check_apart(source, out)
    try:
        (out / NOTES).mkdir(parents=True, exist_ok=True)
        _begin(out, about)
        with _share(out, number, count):
            every, own = 0, []
            for part in parts(source, part_size, out, column):
                every = part.number + 1
                if part.number % count == number:
                    own.append(part.number)
                    if not _finished(part, out, format, check):
                        _do(worker, part, out, format, with_images, told, check)
            return _index(out, about, own, every)
    except OSError as error:
        raise DataError(
            f'{out} cannot be written: {error.strerror or error}. Finished parts are kept: run it again.'
        ) from error


def check_format(task: str, format: str | None, with_images: bool) -> None:
    """Raise a :class:`ConfigError` if a task is not written so."""
    if format is not None and format not in FORMATS[task]:
        raise ConfigError(f'The format of {task} is one of {", ".join(FORMATS[task])}, found {format!r}.')
    if with_images and format != 'tar':
        raise ConfigError('Images are put beside the results in shards only: take the format tar.')


# --- a part ---------------------------------------------------------------------------------------------------


def _do(worker: Worker, part: Part, out: Path, format: str, with_images: bool, told, check: bool) -> None:
    """Write the results of a part, then its manifest."""
    start, keys, bad, counts, shown, results_of = time.time(), [], {}, None, None, {}
    inputs = _inputs(part) if check else None
    with writer(out, part.name, format, worker.extension, with_images) as results:
        for items, found in _streamed(worker, _checked(part, bad)):
            for item, data, error in zip(items, found['data'], found['error'], strict=True):
                if error:
                    bad[item.key] = error
                else:
                    results.add(item.key, data, item.image)
                    keys.append(item.key)
                    if check:
                        results_of[item.key] = value_digest(data)
            if 'counts' in found:
                rows = np.stack(found['counts'])
                counts = rows.sum(axis=0) + (0 if counts is None else counts)
                shown = (rows > 0).sum(axis=0) + (0 if shown is None else shown)
    note = dict(part=part.number, name=part.name, images=len(keys), bad_files=bad)
    if check:
        note |= dict(inputs=inputs, results=results_of)
    if counts is not None:
        note |= dict(pixels=counts.tolist(), images_with=shown.tolist())
    _write(_manifest(out, part.number), note)
    if told is not None:
        speed = len(keys) / max(time.time() - start, 1e-9)
        told(f'{part.name}: {len(keys)} images, {len(bad)} that cannot be used, {speed:.1f} images/s')


def _finished(part: Part, out: Path, format: str, check: bool) -> bool:
    """Whether a part is done, and with ``check`` still what its images give."""
    path = _manifest(out, part.number)
    if not path.is_file() or not check:
        return path.is_file()
    note = _read(path)
    if format in ('png', 'npy'):
        keys = [item.key for item in _checked(part, {}) if item.key not in note['bad_files']]
        files = {key: out / f'{key}.{format}' for key in keys}
    else:
        files = {part.name: out / f'{part.name}.{format}'}
    inputs = _inputs(part)
    if all(file.is_file() for file in files.values()) and note.get('inputs', inputs) == inputs:
        return True
    for key, digest in note.get('results', {}).items():
        if key in files and files[key].is_file() and file_digest(files[key]) != digest:
            raise DataError(
                f'{files[key]} was changed after it was written, and {part.name} has to be done again. Give another '
                'folder, or remove that file to have its image done again.'
            )
    return False


def _inputs(part: Part) -> str:
    """Digest of the images of a part."""
    return value_digest([(item.key, _image_digest(item.image)) for item in _checked(part, {})])


def _image_digest(image: str | ImageBytes | None) -> str | None:
    if isinstance(image, str) and '://' not in image:
        with suppress(OSError):
            return file_digest(image)
        return None
    return image if image is None or isinstance(image, str) else value_digest(image)


def _checked(part: Part, bad: dict[str, str]) -> Iterator[Item]:
    """The images of a part; what cannot be read behind them, as the rest of a shard cut short, is noted."""
    seen = set()
    try:
        for item in part.read():
            if item.key in seen:
                bad[item.key] = 'Another image of this part has the same key, which names the result.'
                continue
            seen.add(item.key)
            yield item
    except DataError as error:
        bad[part.name] = str(error)


def _streamed(worker: Worker, items: Iterable[Item]) -> Iterator[tuple[list[Item], dict]]:
    """Results of images, batch by batch, in order: one batch is decoded and one encoded while the model has another."""
    size, items = worker.batch_size * _AHEAD, iter(items)
    with ThreadPoolExecutor(1) as before, ThreadPoolExecutor(1) as behind:

        def following() -> tuple[list[Item], Future] | None:
            chosen = list(islice(items, size))
            columns = dict(key=[item.key for item in chosen], image=[item.image for item in chosen])
            return (chosen, before.submit(worker.prepare, columns)) if chosen else None

        now, last = following(), None
        while now is not None:
            chosen, ready = now[0], now[1].result()
            now = following()
            computed = behind.submit(worker.encode, worker.compute(ready))
            if last is not None:
                yield last[0], last[1].result()
            last = chosen, computed
        if last is not None:
            yield last[0], last[1].result()


# --- notes ----------------------------------------------------------------------------------------------------


def _manifest(out: Path, number: int) -> Path:
    return out / NOTES / f'{number:06d}.json'


def _write(path: Path, content: dict) -> None:
    with atomic_write(path) as begun:
        begun.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding='utf-8', errors='surrogateescape')


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding='utf-8', errors='surrogateescape'))
        if isinstance(found, dict):
            return found
        error = f'expected an object, found {type(found).__name__}'
    except ValueError as damage:
        error = str(damage)
    raise DataError(f'{path} is damaged: {error}. Remove it, and its part is done again.')


def _begin(out: Path, about: dict) -> None:
    """Note what makes the results in ``out``; refuse to mix them with those of another run."""
    path = out / NOTES / 'run.json'
    with lock(out / NOTES / 'run.lock'):
        if not path.is_file():
            strange = sorted(name for name in os.listdir(out) if name != NOTES)
            if strange:
                raise DataError(
                    f'{out} holds files that are no results of this program, as {strange[0]}. Give another folder.'
                )
            _write(path, about)
            return
        before = _read(path)
    unlike = [key for key, value in about.items() if before.get(key, value) != value]
    if unlike:
        found = ', '.join(f'{key}={before.get(key)!r} (now {about[key]!r})' for key in unlike)
        raise DataError(f'{out} holds the results of another run: {found}. Give another folder, or remove this one.')


@contextmanager
def _share(out: Path, number: int, count: int) -> Iterator[None]:
    """Hold a share for this process, as long as it lives.

    Raises:
        ConfigError: another process has it; tells which, and since when.
    """
    path, holder = (out / NOTES / f'share-{number}-of-{count}.{ending}' for ending in ('lock', 'json'))
    told = ''
    if holder.is_file():
        before = _read(holder)
        minutes = (time.time() - before['since']) / 60
        told = f' by process {before["process"]} on {before["host"]}, for {minutes:.1f} minutes'
    complaint = (
        f'Share {number}/{count} of {out} is being worked on{told}. Wait for it, end it, or take another share. If no '
        'such process lives, the file system does not release locks: remove ' + str(path) + '.'
    )
    with lock(path, complaint):
        _write(holder, dict(process=os.getpid(), host=socket.gethostname(), since=time.time()))
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def _index(out: Path, about: dict, own: list[int], every: int) -> dict:
    """Sum up what is done; write it if that is all."""
    whole = all(_manifest(out, number).is_file() for number in range(every))
    images, bad, pixels, shown, done = 0, {}, 0, 0, 0
    for number in range(every) if whole else own:
        note = _read(_manifest(out, number))
        images, done = images + note['images'], done + 1
        bad |= note['bad_files']
        if 'pixels' in note:
            pixels, shown = pixels + np.array(note['pixels']), shown + np.array(note['images_with'])
    found = dict(about, images=images, parts=done, parts_in_all=every, bad_files=bad)
    if about['classes'] and images:
        pixels, shown, ignored = pixels[:-1], shown[:-1], int(pixels[-1])
        kept = int(pixels.sum())
        found['kept'] = kept / max(kept + ignored, 1)
        found['histogram'] = {name: int(n) / max(kept, 1) for name, n in zip(about['classes'], pixels, strict=True)}
        found['images_with'] = {name: int(n) for name, n in zip(about['classes'], shown, strict=True)}
    if whole:
        with lock(out / NOTES / 'run.lock'):
            _write(out / INDEX, found)
    return found
