"""How class names become class embeddings."""

from vlm_dense.methods.text_prompts.cocoop import CoCoOpPrompt
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.methods.text_prompts.cupl import CuPLPrompt
from vlm_dense.methods.text_prompts.deep_text import DeepTextPrompt
from vlm_dense.methods.text_prompts.dualcoop import AsymmetricLoss, DualCoOpPrompt
from vlm_dense.methods.text_prompts.kgcoop import KgCoOpPrompt
from vlm_dense.methods.text_prompts.lasp import LASPPrompt
from vlm_dense.methods.text_prompts.plot import PLOTPrompt
from vlm_dense.methods.text_prompts.prograd import ProGradAmpOptimWrapper, ProGradOptimWrapper, ProGradPrompt
from vlm_dense.methods.text_prompts.protect import ProTeCtLoss
from vlm_dense.methods.text_prompts.softcpt import RepeatedCosineLR, RepeatedSteps, SoftCPTLoss, SoftCPTPrompt
from vlm_dense.methods.text_prompts.subpt import (
    SubPTPrompt,
    SubspaceAmpOptimWrapper,
    SubspaceHook,
    SubspaceOptimWrapper,
)
from vlm_dense.methods.text_prompts.tai_dpt import GrainAsymmetricLoss, GrainSigmoidLoss, RankingLoss, TaIDPTPrompt
from vlm_dense.methods.text_prompts.tcp import TCPPrompt
from vlm_dense.methods.text_prompts.upl import MemberCrossEntropy, UPLPrompt
from vlm_dense.methods.text_prompts.vcd import VCDPrompt
from vlm_dense.methods.text_prompts.vpt_variational import VariationalPrompt
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt

__all__ = [
    'AsymmetricLoss',
    'CoCoOpPrompt',
    'CoOpPrompt',
    'CuPLPrompt',
    'DeepTextPrompt',
    'DualCoOpPrompt',
    'GrainAsymmetricLoss',
    'GrainSigmoidLoss',
    'KgCoOpPrompt',
    'LASPPrompt',
    'SubPTPrompt',
    'SubspaceAmpOptimWrapper',
    'SubspaceHook',
    'SubspaceOptimWrapper',
    'VCDPrompt',
    'PLOTPrompt',
    'MemberCrossEntropy',
    'RankingLoss',
    'TCPPrompt',
    'TaIDPTPrompt',
    'UPLPrompt',
    'VariationalPrompt',
    'ProGradAmpOptimWrapper',
    'ProGradOptimWrapper',
    'ProGradPrompt',
    'ProTeCtLoss',
    'RepeatedCosineLR',
    'RepeatedSteps',
    'SoftCPTLoss',
    'SoftCPTPrompt',
    'ZeroShotPrompt',
]
