"""DenseCLIP: pixel-text matching as guidance; the detectors are in ``detector.py``, which needs mmdet."""

from vlm_dense.methods.denseclip.any_backbone import PooledBackbone, TorchvisionBackbone
from vlm_dense.methods.denseclip.prompt import DenseCLIPPrompt
from vlm_dense.methods.denseclip.segmentor import ContextDecoder, DenseCLIP, IdentityHead

__all__ = ['ContextDecoder', 'DenseCLIP', 'DenseCLIPPrompt', 'IdentityHead', 'PooledBackbone', 'TorchvisionBackbone']
