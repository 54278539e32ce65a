"""Digests of what a result was computed from, and the one cache keyed by them.

No notice of changed weights is needed: the digest is computed from the current weights, so that a step of an
optimiser, a loaded checkpoint, a moving average or an edit of ``.data`` is seen by itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar('T')


_OF_A_RUN = ('training', '_is_init', '_is_full_backward_hook')
"""Attributes of modules that a run changes."""
_PLAIN = bool | int | float | str | None


@torch.no_grad()
def weights_digest(*sources: nn.Module | Tensor) -> str:
    """Digest of the structure, the settings and all numbers of modules: changes whenever one of them does.

    Settings are the plain attributes of modules (numbers, strings, tuples of them), without the mode. The numbers
    enter as sums over the rows and over the columns of their bits, in 32-bit arithmetic that wraps around: one number
    that is changed, or two that change places, change both or one of these sums.

    Args:
        *sources: Modules, or tensors, on any device, in any dtype, also built under ``torch.inference_mode``.

    Returns:
        32 hexadecimal digits, the same in every process and on every device for the same bits.

    Examples:
        >>> layer = nn.Linear(2, 2)
        >>> before = weights_digest(layer)
        >>> layer.weight.data[0] += 1
        >>> weights_digest(layer) == before
        False
    """
    found = hashlib.blake2b(digest_size=16)
    sums: list[Tensor] = []
    for source in sources:
        tensors = [('', source)]
        if isinstance(source, nn.Module):
            tensors = (*source.named_parameters(), *source.named_buffers())
            parts = []
            for name, part in source.named_modules():
                own = {k: v for k, v in vars(part).items() if k not in _OF_A_RUN}
                plain = {
                    k: v
                    for k, v in own.items()
                    if all(isinstance(x, _PLAIN) for x in (v if isinstance(v, (tuple, list)) else [v]))
                }
                parts.append((name, type(part).__name__, plain))
            found.update(json.dumps(parts, sort_keys=True).encode())
        for name, tensor in tensors:
            found.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
            if tensor.numel() == 0:
                continue
            flat = tensor.detach().contiguous().flatten()  # bits as integers of up to 32
            bits = flat.view(torch.uint8).view({1: torch.int8, 2: torch.int16}.get(flat.element_size(), torch.int32))
            columns = bits.numel() // tensor.shape[0] if tensor.dim() > 1 else math.isqrt(bits.numel())
            whole = bits.numel() // columns * columns
            rows = bits[:whole].view(-1, columns)
            sums += rows.sum(0, dtype=torch.int32), rows.sum(1, dtype=torch.int32), bits[whole:].int()
    for device in sorted({str(s.device) for s in sums}):  # one copy a device
        found.update(torch.cat([s for s in sums if str(s.device) == device]).cpu().numpy().tobytes())
    return found.hexdigest()


def value_digest(value) -> str:
    """Digest of bytes, or of a plain value: numbers, strings, arrays, and lists and dicts of them."""
    return hashlib.blake2b(value if isinstance(value, bytes) else as_json(value).encode(), digest_size=16).hexdigest()


def as_json(value) -> str:
    """A plain value as text, with sorted keys."""
    return json.dumps(value, sort_keys=True, default=lambda v: v.tolist() if hasattr(v, 'tolist') else repr(v))


def file_digest(path: str | os.PathLike) -> str:
    """Digest of the bytes of a file."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


class BoundedCache:
    """Cache of the last results, keyed by their inputs; computed without gradient by one thread at a time.

    Args:
        size: Number of results that are kept; the one that was not asked for the longest time goes first.

    Examples:
        >>> cache = BoundedCache(2)
        >>> cache.get('sum', lambda: torch.ones(2).sum())
        tensor(2.)
    """

    def __init__(self, size: int = 16):
        self.size = size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()  # what is computed may ask for more

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result for ``key``, computed if it is missing; of a tensor, a copy."""
        with self._lock:
            if key not in self._kept:
                with torch.no_grad():
                    self._kept[key] = compute()
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
            found = self._kept[key]
        return found.clone() if isinstance(found, Tensor) else found

    def __deepcopy__(self, memo) -> BoundedCache:
        return BoundedCache(self.size)

    def __reduce__(self):
        return BoundedCache, (self.size,)
