"""MaskCLIP's successors: how the last blocks of a frozen ViT make dense features, one file a method."""

from vlm_dense.methods.dense.naclip import NACLIPAttention

__all__ = ['NACLIPAttention']
