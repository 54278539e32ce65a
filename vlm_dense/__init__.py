"""CLIP for dense prediction, on the OpenMMLab libraries."""

__version__ = '0.1.0'
