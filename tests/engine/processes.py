"""Processes in a test: several connected by gloo, and programs that are watched."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlm_dense.engine.forked import forked_context


def in_processes(count: int, function: Callable, *args) -> None:
    """Call ``function(rank, *args)``, which stands at the top of a module, in ``count`` connected processes."""
    with tempfile.TemporaryDirectory() as folder:
        forked_context('vlm_dense.comparison.preload')  # what the processes import is imported once in a session
        mp.start_processes(_connected, (count, folder, function, args), count, start_method='forkserver')


def _connected(rank: int, count: int, folder: str, function: Callable, args: tuple) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=count)
    try:
        function(rank, *args)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def forked(function: Callable, *args) -> BaseProcess:
    """A process of its own that calls ``function(*args)``, a name of a module; it starts at once, with one thread."""
    process = forked_context('vlm_dense.comparison.preload').Process(target=_with_one_thread, args=(function, args))
    process.start()
    return process


def _with_one_thread(function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)  # as in this process: sums round by threads
    function(*args)


def wait_until(seen: Callable[[], object], process: subprocess.Popen, seconds: float = 240) -> None:
    """Wait until ``seen()`` is true, as long as a program runs; fail if it is not by then."""
    end = time.time() + seconds
    while not seen() and process.poll() is None and time.time() < end:
        time.sleep(0.1)
    assert seen()
