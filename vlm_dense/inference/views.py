"""Copies of a model that share its weights, so that calls at the same time do not see each other's class names."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar('T')


class Views:
    """The last few things that were made, by key; one thread at a time makes one.

    Args:
        limit: How many are kept.
    """

    def __init__(self, limit: int = 16):
        self.limit = limit
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gave for this key; made now if it is not kept."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
            return self._kept[key]
