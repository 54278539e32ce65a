"""The old name of :mod:`vlm_dense.inference`; goes in version 0.3."""

import warnings

from vlm_dense.inference import *  # noqa: F403
from vlm_dense.inference import __all__  # noqa: F401

warnings.warn('vlm_dense.apis is vlm_dense.inference now; the old name goes in version 0.3.', FutureWarning, 2)
