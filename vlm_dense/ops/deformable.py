"""Deformable convolution."""

__all__ = []
