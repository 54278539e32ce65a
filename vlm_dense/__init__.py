"""CLIP for dense prediction, on the OpenMMLab libraries."""

import vlm_dense.ops  # noqa: F401  mmcv's kernels, where the compiled ones are missing
from vlm_dense.programs import setup

__all__ = ['setup']
__version__ = '0.1.0'
