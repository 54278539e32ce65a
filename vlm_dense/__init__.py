"""CLIP for dense prediction, on the OpenMMLab libraries."""

import importlib
from typing import TYPE_CHECKING

import vlm_dense.ops  # noqa: F401  mmcv's kernels, where the compiled ones are missing

if TYPE_CHECKING:
    from vlm_dense.engine.setup import setup
    from vlm_dense.inference.models import get_model
    from vlm_dense.zoo import list_models

__all__ = ['get_model', 'list_models', 'setup']
__version__ = '0.2.0'

_HOMES = dict(
    get_model='vlm_dense.inference.models',
    list_models='vlm_dense.zoo',
    setup='vlm_dense.engine.setup',
)


def __getattr__(name):
    if name in _HOMES:  # imported when it is asked for: the package itself costs no time
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
    return sorted({*globals(), *_HOMES})
