"""Replacement of mmcv's compiled module: kernels on those of torch and torchvision.

Each has the name, the arguments and the output buffers of its namesake in mmcv. float16 and bfloat16 are computed in
float32 and rounded once. Any other kernel raises NotImplementedError when it is called.
"""

import functools

from vlm_dense.ops import (
    attention,
    boxes,
    carafe,
    curved,
    deformable,
    deformable_pooling,
    focal,
    info,
    lanes,
    masked,
    pooling,
    rotated,
    suppression,
    sync_bn,
    text,
)

_MODULES = (
    attention,
    boxes,
    carafe,
    curved,
    deformable,
    deformable_pooling,
    focal,
    info,
    lanes,
    masked,
    pooling,
    rotated,
    suppression,
    sync_bn,
    text,
)
KERNELS = {name: getattr(module, name) for module in _MODULES for name in module.__all__}


def absent(name: str):
    """A function instead of the kernel ``name`` that is not provided; it raises NotImplementedError.

    Raises:
        AttributeError: ``name`` begins with an underscore, so it is no kernel.
    """
    if name.startswith('_'):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")
    return functools.partial(_refuse, name)


def _refuse(name, *_, **__):
    raise NotImplementedError(
        f'{name} is a compiled kernel of mmcv. This installation of mmcv has no compiled kernels, and the stand-in '
        f'vlm_dense.ops does not have this one. Build mmcv with its kernels: pip install setuptools wheel ninja, then '
        f'pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir onedl-mmcv (about ten minutes; '
        f'needs a C++ compiler, and nvcc for GPUs)'
    )
