"""mmcv's report on its compilation; mmengine and mmdet print it at the start of a run."""

import torch
import torchvision

__all__ = ['get_compiler_version', 'get_compiling_cuda_version']


def get_compiler_version() -> str:
    """Instead of a compiler."""
    return f'none: vlm_dense.ops on torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """The CUDA version of torch and torchvision."""
    return torch.version.cuda or 'not available'
