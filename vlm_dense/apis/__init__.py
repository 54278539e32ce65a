"""Inferencers: picture in, labels and picture out."""

from vlm_dense.engine import quiet  # isort: skip  # noqa: F401  (first, before others import mmseg)
from vlm_dense.apis.seg_inferencer import SegInferencer, maskclip_config

__all__ = ['SegInferencer', 'maskclip_config']
