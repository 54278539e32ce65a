"""What takes the place of mmcv's compiled module: kernels on those of torch and torchvision.

Each has the name, the arguments and the output buffers of its namesake in mmcv. float16 and bfloat16 are computed in
float32 and rounded once. Any other kernel raises NotImplementedError when it is called.
"""

import functools

from vlm_dense.ops import boxes, carafe, deformable, focal, info, masked, pooling, suppression

_MODULES = (boxes, carafe, deformable, focal, info, masked, pooling, suppression)
KERNELS = {name: getattr(module, name) for module in _MODULES for name in module.__all__}


def absent(name: str):
    """A function in the place of the kernel ``name`` that is not provided; it raises NotImplementedError.

    Raises:
        AttributeError: ``name`` begins with an underscore, so it is no kernel.
    """
    if name.startswith('_'):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")
    return functools.partial(_refuse, name)


def _refuse(name, *_, **__):
    raise NotImplementedError(
        f'{name} is a compiled kernel of mmcv. This installation of mmcv comes without compiled kernels, and the '
        f'stand-in vlm_dense.ops does not have this one. Build mmcv with its kernels (with a C++ compiler, setuptools, '
        f'wheel, ninja and psutil at hand, in about ten minutes): MMCV_WITH_OPS=1 pip install --force-reinstall '
        f'--no-deps --no-build-isolation --no-binary :all: onedl-mmcv'
    )
