"""The old name of :mod:`vlm_dense.contract`; goes in version 0.3."""

import warnings

from vlm_dense.contract import *  # noqa: F403
from vlm_dense.contract import __all__  # noqa: F401

warnings.warn('vlm_dense.methods.base is vlm_dense.contract now; the old name goes in version 0.3.', FutureWarning, 2)
