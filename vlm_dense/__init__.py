"""CLIP for dense prediction, on the OpenMMLab libraries."""

import vlm_dense.ops  # noqa: F401  mmcv's kernels, where the compiled ones are missing
from vlm_dense.libraries import setup
from vlm_dense.zoo import get_model, list_models

__all__ = ['get_model', 'list_models', 'setup']
__version__ = '0.1.0'
