"""The generators of random numbers: Python's, numpy's and torch's on the CPU."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(key: int) -> None:
    """Seed Python, numpy and torch on the CPU."""
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators of Python, numpy and torch on the CPU; GPUs are not touched."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
