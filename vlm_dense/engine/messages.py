"""Errors that a user can fix, in one message: programs print it and exit with status 2, without traceback.

Nothing heavy is imported here, so that a program can say what is wrong with its arguments before it imports torch.
"""

from __future__ import annotations

import difflib
import errno
import inspect
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from urllib.error import URLError

from vlm_dense.engine.explain import of_library, of_run
from vlm_dense.errors import (
    ConfigError,
    DataError,
    MissingLibraryError,
    UserError,
    WeightsNotFoundError,
    unknown_name,
)

EXIT_STATUS = 2
TRACEBACK = 'VLM_DENSE_TRACEBACK'
"""Environment variable: with the value 1, the traceback is printed before the message."""

_GRACE = 10  # seconds
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 300  # characters of the arguments that are shown
_OF_BUILDS = (TypeError, ValueError, AssertionError, LookupError, AttributeError, ImportError, NotImplementedError)


@contextmanager
def user_errors(once_per_machine: bool = False, interrupted: Callable[[], str] | str | None = None) -> Iterator[None]:
    """Print the message of an error that a user can fix and leave with status 2, without traceback.

    Those are every :class:`UserError`, unknown names in a registry, arguments that a component of a config does not
    take or refuses, files and folders that cannot be read or written, a full disk, memory that does not suffice, and
    Ctrl-C. The environment variable ``VLM_DENSE_TRACEBACK=1`` prints the traceback as well.

    Args:
        once_per_machine: Let the first process of a machine speak first: for errors that all of them meet.
        interrupted: After Ctrl-C, what is saved and how to continue; a sentence, or a function that returns one.

    Raises:
        SystemExit: status 2, instead of these errors.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        told = _told(error, interrupted)
        if told is None:
            raise
        if once_per_machine and local_rank() > 0:
            time.sleep(_GRACE)  # the launcher ends this process when the first has printed its error and exited
        if os.environ.get(TRACEBACK) == '1':
            traceback.print_exc()
        with suppress(OSError):  # the disk may be full that stderr is written to; the status stays
            print(told, file=sys.stderr, flush=True)
        raise SystemExit(EXIT_STATUS) from None


def local_rank() -> int:
    """Number of this process on its machine."""
    for name in ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        if name in os.environ:
            with suppress(ConfigError):  # told where processes are connected
                return number_in(name)
    return 0


def number_in(variable: str) -> int:
    """The number that an environment variable holds.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        return int(os.environ[variable])
    except ValueError:
        raise ConfigError(
            f'The environment variable {variable} must be a number, found {os.environ[variable]!r}. Launchers as '
            'torchrun set it; unset it otherwise.'
        ) from None


def _told(error: BaseException, interrupted: Callable[[], str] | str | None) -> str | None:
    """Kind and message, or None of an error that is no user's."""
    if isinstance(error, KeyboardInterrupt):
        more = interrupted() if callable(interrupted) else interrupted
        return f'Interrupted. {more}' if more else 'Interrupted: stopped by Ctrl-C.'
    if isinstance(error, UserError):
        text = str(error.args[0]) if error.args else str(error)
        # torch passes an error of a data worker on with the worker's traceback as its message
        text = text.rpartition(f'{type(error).__module__}.{type(error).__name__}: ')[2].rstrip()
        return f'{type(error).__name__}: {text}'
    explained = (
        (ConfigError, _of_registry),
        (WeightsNotFoundError, _of_download),
        (DataError, _of_system),
        (ConfigError, _of_build),
        (ConfigError, of_run),
        (MissingLibraryError, of_library),
    )
    for kind, explain in explained:
        message = explain(error)
        if message is not None:
            return f'{kind.__name__}: {message}'
    return None


# --- names that no registry has -------------------------------------------------------------------------------


def _of_registry(error: BaseException) -> str | None:
    text = str(error.args[0]) if error.args else ''
    unknown = re.match(r'(\S+) is not in the (\S+)::(.+?) registry', text)
    if unknown:
        name, scope, kind = unknown.groups()
        return unknown_name(name, f'{kind} registry of {scope}', _registered(kind))
    unknown = re.fullmatch(r'Failed to get (\S+)', text)
    return unknown_name(unknown[1], 'registries', _registered()) if unknown else None


def _registered(kind: str | None = None) -> set[str]:
    """All registered names, those of ``vlm_dense`` with their scope."""
    from mmengine import registry as root_registries
    from mmengine.registry import Registry

    names: set[str] = set()

    def add(registry: Registry) -> None:
        if registry.scope == 'vlm_dense':
            registry.import_from_location()
        prefix = 'vlm_dense.' if registry.scope == 'vlm_dense' else ''
        names.update(prefix + name for name in registry._module_dict)
        for child in registry._children.values():
            add(child)

    for registry in vars(root_registries).values():
        if isinstance(registry, Registry) and kind in (None, registry.name):
            add(registry)
    return names


# --- the system -----------------------------------------------------------------------------------------------


def _of_download(error: BaseException) -> str | None:
    """The message of a download by torch.hub that failed, with the file that would do instead."""
    if not isinstance(error, URLError):
        return None
    urls = [frame.f_locals['url'] for frame, _ in traceback.walk_tb(error.__traceback__) if 'url' in frame.f_locals]
    url = next((url for url in urls if isinstance(url, str)), None)
    if url is None:
        return f'A download failed: {error.reason}.'
    from torch.hub import get_dir

    place = os.path.join(get_dir(), 'checkpoints', url.rpartition('/')[2])
    return f'{url} cannot be downloaded: {error.reason}. Without network, put the file to {place}.'


def _of_system(error: BaseException) -> str | None:
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, FileNotFoundError) and not _folder_is_there():
        return 'The working directory was removed. Change to a folder that is there, and start again.'
    if isinstance(error, OSError) and (error.filename or error.errno in _NO_SPACE):
        place = error.filename if error.filename is not None else 'A file'
        if error.errno in _NO_SPACE:
            return (
                f'{place} cannot be written: {error.strerror}. Make room, or write elsewhere; what was there is kept.'
            )
        if isinstance(error, FileNotFoundError):
            return f'{place} does not exist (looked from {os.getcwd()}).'
        return f'{place} cannot be used: {error.strerror}.'
    text = str(error)
    if isinstance(error, RuntimeError) and ('PytorchStreamWriter' in text or 'iostream error' in text):
        return 'A checkpoint could not be written, most likely because the disk is full. Make room, and resume.'
    if isinstance(error, RuntimeError) and type(error).__name__ == 'OutOfMemoryError':  # torch's
        return f'The memory of the GPU does not suffice: {text.splitlines()[0]} Take a smaller batch_size.'
    if isinstance(error, MemoryError):
        return 'The memory of this machine does not suffice. Take a smaller batch_size or smaller images.'
    return None


def _folder_is_there() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


# --- what is built from a config ------------------------------------------------------------------------------


def _of_build(error: BaseException) -> str | None:
    """The message of an error in the constructor of what a registry builds; the innermost such constructor is named."""
    frame, inside = _build_frame(error.__traceback__)
    if frame is None or not isinstance(error, _OF_BUILDS):
        return None
    kind, given = frame.f_locals['obj_cls'], frame.f_locals['args']
    name = frame.f_locals.get('obj_type', kind)
    name = name if isinstance(name, str) else getattr(name, '__name__', str(name))
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    unknown = re.search(r"got an unexpected keyword argument '(\w+)'", text)
    if unknown and isinstance(error, TypeError) and unknown[1] in given:
        return unknown_argument(name, kind, unknown[1])
    missing = re.search(r'missing \d+ required (?:keyword-only|positional) arguments?: (.+)', text)
    if missing and isinstance(error, TypeError) and inside == 0:
        return f'{name} needs {missing[1]}, which the config does not give.'
    shown = ', '.join(f'{key}={value!r}' for key, value in given.items())
    shown = shown if len(shown) <= _LONGEST else f'{shown[:_LONGEST]}...'
    return (
        f'{name} cannot be built: {text.rstrip(".")} ({type(error).__name__}). Its arguments in the config: {shown}. '
        f'{TRACEBACK}=1 shows where.'
    )


def _build_frame(tb: TracebackType | None) -> tuple[FrameType | None, int]:
    """The innermost frame that calls the constructor of a component, and how many calls are below it."""
    found, below = None, 0
    while tb is not None:
        code = tb.tb_frame.f_code
        if code.co_name == 'build_from_cfg' and 'obj_cls' in tb.tb_frame.f_locals:
            found, below = tb.tb_frame, -1
        below += 1
        tb = tb.tb_next
    return found, below


def arguments_of(kind: type | Callable) -> set[str]:
    """Names of the arguments that a component's constructor and those of its bases declare."""
    names: set[str] = set()
    for cls in inspect.getmro(kind) if inspect.isclass(kind) else [kind]:
        try:
            parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        except (TypeError, ValueError):  # written in C
            continue
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # passes nothing on
    return names - {'self', 'args', 'kwargs'}


def unknown_argument(name: str, kind: type | Callable, argument: str) -> str:
    """Message for an argument that a component does not take, with the nearest ones."""
    known = sorted(arguments_of(kind))
    near = difflib.get_close_matches(argument, known, n=3, cutoff=0.5)
    hint = f'Did you mean {" or ".join(map(repr, near))}?' if near else f'It takes {", ".join(known) or "none"}.'
    return f'{name} takes no argument {argument!r}. {hint}'
