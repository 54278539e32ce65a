"""Methods beside prompts and adapters."""

from vlm_dense.methods.others.tpt import TPT, TPTViews
from vlm_dense.methods.others.wise_ft import WiSEFTHead

__all__ = ['TPT', 'TPTViews', 'WiSEFTHead']
