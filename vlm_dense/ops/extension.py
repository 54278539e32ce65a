"""Kernels of mmcv on those of torchvision.

Every function has the name, the arguments and the output buffers of its namesake in mmcv's compiled module. A kernel
that torchvision has no equal of raises NotImplementedError when it is called.
"""

import functools

from vlm_dense.ops import deformable, pooling, suppression

KERNELS = {name: getattr(module, name) for module in (suppression, pooling, deformable) for name in module.__all__}


def absent(name: str):
    """Stand for the kernel ``name`` that is not provided.

    Raises:
        AttributeError: ``name`` is private, so no kernel.
    """
    if name.startswith('_'):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")
    return functools.partial(_refuse, name)


def _refuse(name, *_, **__):
    raise NotImplementedError(
        f'{name} is a compiled kernel of mmcv. This installation of mmcv lacks it, and so does the stand-in vlm_dense.ops. '
        'Install mmcv with its kernels (a C++ compiler, setuptools, wheel, ninja and about ten minutes are needed): '
        'MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-build-isolation --no-binary :all: onedl-mmcv'
    )
