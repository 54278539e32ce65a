"""Errors with a message written for the user.

The command-line programs print the message of a :class:`UserError` and leave
with a non-zero status; a traceback would only hide the one line that helps.
Every message says what was expected, what was found and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Base of the errors that a user, not a developer, can fix."""


class ConfigError(UserError, ValueError):
    """An invalid config value: unknown name, wrong size, wrong range."""


class ClassNamesError(ConfigError):
    """Class names that do not fit the model, the head or the text context."""


class DataError(UserError, ValueError):
    """Data that is absent, damaged or out of range; names the file."""


class WeightsNotFoundError(UserError, FileNotFoundError):
    """Weights that should be on disk and are not."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is corrupt, foreign or unlike the model it is for."""


class MissingLibraryError(UserError, ImportError):
    """A library of an extra that is not installed."""


class InvalidLossError(UserError, FloatingPointError):
    """A loss became NaN or infinite during training."""


def unknown_name(name: str, where: str, known: Iterable[str]) -> str:
    """Message for an unknown name that suggests the nearest known ones.

    Args:
        name: What the user wrote.
        where: What was searched, for the sentence "... is not in the {where}".
        known: The names that exist.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name.split('.')[-1], known, n=3, cutoff=0.5)
    if not near:
        lower = {k.lower(): k for k in known}
        near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    some = ', '.join(known[:20]) + (f' and {len(known) - 20} more' if len(known) > 20 else '')
    hint = f'Did you mean {" or ".join(repr(n) for n in near)}?' if near else f'Known: {some}.'
    return f'{name!r} is not in the {where}. {hint}'


def counted(number: int, thing: str) -> str:
    """A number and what it counts: '1 fault', '2 faults'."""
    return f'{number} {thing}' if number == 1 else f'{number} {thing}s'


def first_of(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, with dots if there are more."""
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
