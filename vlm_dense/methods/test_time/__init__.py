"""How a classifier adapts to one image before it classifies that image."""

from vlm_dense.methods.test_time.tda import TDA
from vlm_dense.methods.test_time.tpt import TPT, TPTViews
from vlm_dense.methods.test_time.zero_tta import ZERO

__all__ = ['TDA', 'TPT', 'TPTViews', 'ZERO']
