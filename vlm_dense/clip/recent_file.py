"""A CLIP file is read once for the two towers that are built from it."""

from __future__ import annotations

import threading
from pathlib import Path

from torch import Tensor

from vlm_dense.clip.weight_files import read_state_dict

KEEP_SECONDS = 60.0
"""Seconds that a file read for one tower is kept for the other."""


class _RecentFile:
    """The state dict read last; it is given away once, or dropped after :data:`KEEP_SECONDS`."""

    def __init__(self):
        self._lock = threading.Lock()
        self._key, self._state_dict, self._timer = None, None, None

    def take(self, key: tuple) -> dict[str, Tensor] | None:
        """Remove and return the entry of ``key``; None if there is none."""
        with self._lock:
            found = self._state_dict if key == self._key else None
            if found is not None:
                self._forget()
            return found

    def keep(self, key: tuple, state_dict: dict[str, Tensor]) -> None:
        """Keep this state dict instead of another."""
        with self._lock:
            self._forget()
            self._key, self._state_dict = key, state_dict
            self._timer = threading.Timer(KEEP_SECONDS, self.take, [key])
            self._timer.daemon = True
            self._timer.start()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._key, self._state_dict, self._timer = None, None, None


_recent = _RecentFile()


def read_once(path: Path) -> dict[str, Tensor]:
    """As :func:`vlm_dense.clip.read_state_dict`, but two calls in a row for an unchanged file read it once.

    Images and text are two modules of a model, and each loads its half of the same file. The second call gets what the
    first one read; after it nothing is kept.
    """
    path = Path(path)
    state = path.stat() if path.is_file() else None
    key = state and (path.absolute(), state.st_size, state.st_mtime_ns)
    found = _recent.take(key) if key else None
    if found is None:
        found = read_state_dict(path)
        if key:
            _recent.keep(key, found)
    return dict(found)
