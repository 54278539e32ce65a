"""How class names become class embeddings."""

from vlm_dense.methods.text_prompts.cocoop import CoCoOpPrompt
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.methods.text_prompts.deep_text import DeepTextPrompt
from vlm_dense.methods.text_prompts.dualcoop import AsymmetricLoss, DualCoOpPrompt
from vlm_dense.methods.text_prompts.kgcoop import KgCoOpPrompt
from vlm_dense.methods.text_prompts.plot import PLOTPrompt
from vlm_dense.methods.text_prompts.protect import ProTeCtLoss
from vlm_dense.methods.text_prompts.softcpt import RepeatedCosineLR, RepeatedSteps, SoftCPTLoss, SoftCPTPrompt
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt

__all__ = [
    'AsymmetricLoss',
    'CoCoOpPrompt',
    'CoOpPrompt',
    'DeepTextPrompt',
    'DualCoOpPrompt',
    'KgCoOpPrompt',
    'PLOTPrompt',
    'ProTeCtLoss',
    'RepeatedCosineLR',
    'RepeatedSteps',
    'SoftCPTLoss',
    'SoftCPTPrompt',
    'ZeroShotPrompt',
]
