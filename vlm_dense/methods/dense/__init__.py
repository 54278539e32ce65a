"""MaskCLIP's successors, one file a method: parts that make dense features of a frozen ViT's last blocks, and LPOSS."""

from vlm_dense.methods.dense.clearclip import ClearCLIPAttention
from vlm_dense.methods.dense.lposs import LPOSS
from vlm_dense.methods.dense.naclip import NACLIPAttention
from vlm_dense.methods.dense.proxy_vit import ProxyViT
from vlm_dense.methods.dense.proxyclip import ProxyCLIPAttention
from vlm_dense.methods.dense.resclip import ResCLIPAttention
from vlm_dense.methods.dense.sc_clip import SCCLIPAttention
from vlm_dense.methods.dense.sclip import SCLIPAttention

__all__ = [
    'ClearCLIPAttention',
    'LPOSS',
    'NACLIPAttention',
    'ProxyCLIPAttention',
    'ProxyViT',
    'ResCLIPAttention',
    'SCCLIPAttention',
    'SCLIPAttention',
]
