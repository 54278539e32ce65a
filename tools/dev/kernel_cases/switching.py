"""Other kernels for mmcv.ops than those of its module ``mmcv._ext``."""

from __future__ import annotations

import sys
from contextlib import contextmanager


class _Kernels:
    def __init__(self, others: dict, rest):
        self.__dict__.update(others)
        self._rest = rest

    def __getattr__(self, name):
        return getattr(self._rest, name)


@contextmanager
def kernels(others: dict):
    """Inside, mmcv.ops calls the functions of ``others`` by their names, and for all other names its own."""
    modules = [m for name, m in sys.modules.items() if name.startswith('mmcv.ops.') and hasattr(m, 'ext_module')]
    own = [module.ext_module for module in modules]
    for module in modules:
        module.ext_module = _Kernels(others, module.ext_module)
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            module.ext_module = before
