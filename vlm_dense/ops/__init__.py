"""A stand-in for mmcv's compiled kernels, on those of torchvision.

mmcv reaches its kernels through one module, ``mmcv._ext``, which plain pip does not build for a current torch.
Importing this package makes that module available where the compiled one is missing: a finder at the very end of
``sys.meta_path`` is asked for it only when nothing else has found it, so a compiled mmcv always comes first. Neither
torch nor mmcv is imported before ``mmcv._ext`` is. ``python -m vlm_dense.ops`` lists what is provided.
"""

import importlib
import importlib.machinery
import sys

NAME = 'mmcv._ext'


class StandInFinder:
    """Finds ``mmcv._ext``, and only that, in ``vlm_dense.ops.extension``."""

    def find_spec(self, name, path=None, target=None):
        """The spec of the stand-in if ``name`` is ``mmcv._ext``, else None."""
        return importlib.machinery.ModuleSpec(name, self) if name == NAME else None

    def create_module(self, spec):
        """None: an ordinary empty module."""

    def exec_module(self, module):
        """Fill ``module`` with the kernels."""
        from vlm_dense.ops import extension

        module.__doc__ = extension.__doc__
        module.__getattr__ = extension.absent
        module.__dict__.update(extension.KERNELS)


if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
    sys.meta_path.append(StandInFinder())
