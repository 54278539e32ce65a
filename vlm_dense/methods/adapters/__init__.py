"""How features become logits: adapters, caches, classifiers."""

from vlm_dense.methods.adapters.clip_adapter import CLIPAdapter, CLIPTextAdapter
from vlm_dense.methods.adapters.taskres import TaskRes

__all__ = [
    'CLIPAdapter',
    'CLIPTextAdapter',
    'TaskRes',
]
