"""Methods beside prompts and adapters."""

from vlm_dense.methods.others.tpt import TPT, TPTViews

__all__ = ['TPT', 'TPTViews']
