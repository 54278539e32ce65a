"""Processes that start at once and own their memory."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext


def forked_context(*imported: str) -> BaseContext:
    """The context of processes that a server forks, which has imported what they need.

    Args:
        *imported: Modules that every new interpreter finds, and so none of a program's own folder: Python 3.11 gives
            the server no ``sys.path``, and passes over what it cannot import.

    Returns:
        As :func:`multiprocessing.get_context`; where the system cannot fork, that of new interpreters. There is one
        server for a process and all its contexts, started with the first of its children.
    """
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(imported))
    return context
