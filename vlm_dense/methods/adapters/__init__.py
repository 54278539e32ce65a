"""How features become logits: adapters, caches, classifiers."""

from vlm_dense.methods.adapters.ape import APE, APET
from vlm_dense.methods.adapters.calip import CALIP
from vlm_dense.methods.adapters.clip_adapter import CLIPAdapter, CLIPTextAdapter
from vlm_dense.methods.adapters.gda_clip import GDACLIP, GDACLIPUnseen
from vlm_dense.methods.adapters.linear_probe import LinearProbe
from vlm_dense.methods.adapters.lp_plus_plus import LPPlusPlus
from vlm_dense.methods.adapters.svl_adapter import SVLAdapter
from vlm_dense.methods.adapters.taskres import TaskRes
from vlm_dense.methods.adapters.tip_adapter import TipAdapter
from vlm_dense.methods.adapters.tip_adapter_f import TipAdapterF
from vlm_dense.methods.adapters.vt_clip import VTCLIP

__all__ = [
    'APE',
    'APET',
    'CALIP',
    'CLIPAdapter',
    'CLIPTextAdapter',
    'GDACLIP',
    'GDACLIPUnseen',
    'LPPlusPlus',
    'LinearProbe',
    'SVLAdapter',
    'TaskRes',
    'TipAdapter',
    'TipAdapterF',
    'VTCLIP',
]
