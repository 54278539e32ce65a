"""Peak memory of a computation."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


class PeakMemory:
    """Memory in MB, now and at its peak since :meth:`start`: of tensors on a GPU, else of the whole process (Linux).

    Args:
        device: Where the work is done.

    Attributes:
        before: Memory at the start; None where it cannot be told.
    """

    def __init__(self, device: torch.device | str = 'cpu'):
        self.device = torch.device(device)
        self.before: float | None = None

    def start(self) -> PeakMemory:
        """Release unused memory and reset the peak."""
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device) / 2**20
        elif _CLEAR.exists():
            ctypes.CDLL('libc.so.6').malloc_trim(0)
            _CLEAR.write_text('5')
            self.before = self._of_process('VmRSS')
        return self

    @property
    def peak(self) -> float | None:
        """The peak since the start; None where it cannot be measured."""
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return self._of_process('VmHWM') if _CLEAR.exists() else None

    @staticmethod
    def _of_process(key: str) -> float:
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(key))
        return int(line.split()[1]) / 1024
