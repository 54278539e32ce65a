"""Inferencers: picture in, labels or boxes and picture out."""

from importlib.util import find_spec

from vlm_dense.engine import quiet  # isort: skip  # noqa: F401  (first, before others import mmseg)
from vlm_dense.apis.maskclip_models import maskclip_config
from vlm_dense.apis.seg_inferencer import SegInferencer

__all__ = ['SegInferencer', 'maskclip_config']

if find_spec('mmdet'):
    from vlm_dense.apis.det_inferencer import DetInferencer

    __all__ += ['DetInferencer']
