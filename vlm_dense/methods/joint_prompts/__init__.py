"""Prompts of both towers."""

from vlm_dense.methods.joint_prompts.cavpt import CAVPTLoss, CAVPTPrompt
from vlm_dense.methods.joint_prompts.ivlp import IVLPPrompt
from vlm_dense.methods.joint_prompts.maple import MaPLePrompt
from vlm_dense.methods.joint_prompts.mvlpt import MVLPTPrompt
from vlm_dense.methods.joint_prompts.promptsrc import PromptAverageHook, PromptSRCPrompt
from vlm_dense.methods.joint_prompts.upt import UPTPrompt

__all__ = [
    'CAVPTLoss',
    'CAVPTPrompt',
    'IVLPPrompt',
    'MVLPTPrompt',
    'MaPLePrompt',
    'PromptAverageHook',
    'PromptSRCPrompt',
    'UPTPrompt',
]
