"""A stand-in for mmcv's compiled kernels, on those of torch and torchvision.

mmcv reaches its kernels through one module, ``mmcv._ext``, which plain pip does not build for a current torch.
Importing this package makes that module available where the compiled one is missing, in this process and in those
that multiprocessing starts from it. mmdet and mmseg need no change, and a compiled mmcv is left as it is.
``python -m vlm_dense.ops`` lists what is provided.
"""

import importlib.util
import multiprocessing
import sys
from importlib.machinery import ModuleSpec

NAME = 'mmcv._ext'


class StandInFinder:
    """Finds ``mmcv._ext``, and only that, in :mod:`vlm_dense.ops.extension`.

    At the end of ``sys.meta_path`` it is asked only when nothing else has found the module.
    """

    def find_spec(self, name, path=None, target=None):
        """The spec of the stand-in if ``name`` is ``mmcv._ext``, else None."""
        return ModuleSpec(name, self) if name == NAME else None

    def create_module(self, spec):
        """None: an ordinary empty module."""

    def exec_module(self, module):
        """Fill ``module`` with the kernels; torch is imported here and not before."""
        from vlm_dense.ops import extension

        module.__doc__ = extension.__doc__
        module.__getattr__ = extension.absent
        module.__dict__.update(extension.KERNELS)


def is_stand_in() -> bool:
    """Whether ``mmcv._ext`` is the stand-in; imports mmcv.

    Raises:
        ModuleNotFoundError: There is no mmcv.
    """
    return isinstance(importlib.util.find_spec(NAME).loader, StandInFinder)


def _install():
    if any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        return
    finder = StandInFinder()
    sys.meta_path.append(finder)
    # A spawned worker unpickles this before its arguments, and so imports this package before any class of mmdet.
    multiprocessing.current_process()._config[__name__] = finder
    if NAME not in sys.modules and sys.modules.keys() & {'mmdet', 'mmseg'} and is_stand_in():
        from vlm_dense.ops import late

        late.replace_fallbacks()


_install()
