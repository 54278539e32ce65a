"""How class names become class embeddings."""

from vlm_dense.methods.text_prompts.cocoop import CoCoOpPrompt
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.methods.text_prompts.deep_text import DeepTextPrompt
from vlm_dense.methods.text_prompts.dualcoop import AsymmetricLoss, DualCoOpPrompt
from vlm_dense.methods.text_prompts.kgcoop import KgCoOpPrompt
from vlm_dense.methods.text_prompts.tai_dpt import GrainAsymmetricLoss, GrainSigmoidLoss, RankingLoss, TaIDPTPrompt
from vlm_dense.methods.text_prompts.upl import MemberCrossEntropy, UPLPrompt
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt

__all__ = [
    'AsymmetricLoss',
    'CoCoOpPrompt',
    'CoOpPrompt',
    'DeepTextPrompt',
    'DualCoOpPrompt',
    'GrainAsymmetricLoss',
    'GrainSigmoidLoss',
    'KgCoOpPrompt',
    'MemberCrossEntropy',
    'RankingLoss',
    'TaIDPTPrompt',
    'UPLPrompt',
    'ZeroShotPrompt',
]
