"""Files that are written whole or not at all, locks that end with their process, and the checkpoints of a work dir."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlm_dense.errors import ConfigError

LAST = 'last_checkpoint'
"""File in a work dir that names its last checkpoint."""

PARTIAL = '.partial'
"""In the names of files that are being written."""

_STEP = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


# --- writing --------------------------------------------------------------------------------------------------


def partial_of(path: str | Path) -> Path:
    """Temporary path of the file or folder ``path`` until it is complete; with the suffix of ``path``."""
    path = Path(path)
    return path.with_name(f'.{path.stem}{PARTIAL}{path.suffix}')


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield where to write; what is there in the end takes the place of ``path`` at once.

    A process that is killed at any moment, or a disk that is full, leaves ``path`` as it was or whole.

    Raises:
        OSError: the place cannot be written; what was begun is removed.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with atomic_write(f'{folder}/a.txt') as begun:
        ...     _ = begun.write_text('whole')
        >>> os.listdir(folder)
        ['a.txt']
    """
    partial = partial_of(path)
    try:
        yield partial
        commit(path)
    except BaseException:
        remove(partial)
        raise


def commit(path: str | Path) -> None:
    """Flush what lies at :func:`partial_of` ``path``, a file or a folder, to the disk and let it become ``path``."""
    path, partial = Path(path), partial_of(path)
    for each in [*partial.rglob('*'), partial]:
        _flush(each)
    if path.is_dir():  # a folder is not replaced at once
        old = path.with_name(f'.{path.name}.old')
        remove(old)
        os.replace(path, old)
        os.replace(partial, path)
        remove(old)
    else:
        os.replace(partial, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Wait until the content of a file, or the list of files of a folder, is on the disk."""
    if path.is_dir() and os.name == 'nt':  # a folder cannot be opened there
        return
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove(path: str | Path) -> None:
    """Remove a file or a folder, if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


# --- locks ----------------------------------------------------------------------------------------------------


@contextmanager
def lock(path: str | Path, complaint: str | None = None) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    Args:
        path: A file, made if it is not there; it stays and means nothing by itself.
        complaint: What to say if another holds the lock; ``None`` waits for it.

    Raises:
        ConfigError: ``complaint``.
    """
    held = FileLock(os.path.realpath(path), blocking=complaint is None)
    try:
        held.acquire()
    except Timeout as error:
        raise ConfigError(complaint) from error
    try:
        yield
    finally:
        held.release()


@contextmanager
def locked_work_dir(work_dir: str) -> Iterator[None]:
    """Hold a work dir for one training.

    Raises:
        ConfigError: another training that still runs holds it, or it cannot be written.
    """
    complaint = (
        f'Another training runs in {work_dir}; two would overwrite each other. Wait for it, end it, or name another '
        'folder by --work-dir.'
    )
    with ExitStack() as held:
        try:
            os.makedirs(work_dir, exist_ok=True)
            held.enter_context(lock(os.path.join(work_dir, '.training.lock'), complaint))
        except OSError as error:
            raise ConfigError(
                f'The work dir {work_dir} cannot be written: {error.strerror}. Name another one by --work-dir.'
            ) from error
        yield


# --- finding --------------------------------------------------------------------------------------------------


def write_last(work_dir: str, checkpoint: str) -> None:
    """Make ``checkpoint`` the last one of a work dir."""
    with atomic_write(os.path.join(work_dir, LAST)) as begun:
        begun.write_text(str(checkpoint), encoding='utf-8')


def local_path(work_dir: str | Path, recorded: str) -> str:
    """Location of a recorded file: in the work dir if it is there, which may be a copy of the first one."""
    here = os.path.join(work_dir, re.split(r'[\\/]', recorded)[-1])
    return here if os.path.exists(here) or _is_work_dir(os.path.dirname(recorded)) else recorded


def _is_work_dir(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, LAST))


def last_checkpoint(work_dir: str) -> str | None:
    """Path of the last whole checkpoint of a work dir, or None.

    It is the one that ``last_checkpoint`` names, wherever the work dir has been moved or copied to. If that one is
    gone or cut short, or if none is named, it is the ``iter_N.pth`` or ``epoch_N.pth`` with the greatest N that is
    whole.
    """
    named = os.path.join(work_dir, LAST)
    if os.path.isfile(named):
        recorded = Path(named).read_text(encoding='utf-8', errors='replace').strip()
        recorded = '' if '\0' in recorded or '\n' in recorded else recorded  # damaged
        path = local_path(work_dir, recorded) if recorded else ''
        if _whole(path):
            return path
    found = Path(work_dir).glob('*.pth') if os.path.isdir(work_dir) else ()
    steps = {path: int(step.group(1)) for path in found if (step := _STEP.fullmatch(path.name))}
    whole = (path for path in sorted(steps, key=lambda path: (steps[path], path.name), reverse=True) if _whole(path))
    return next((str(path) for path in whole), None)


def _whole(path: str | Path) -> bool:
    """Whether a checkpoint has its end, which is where a cut-off one differs; folders of shards are not looked into."""
    return os.path.isdir(path) or (os.path.isfile(path) and zipfile.is_zipfile(path))
