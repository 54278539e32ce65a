"""Prompts of both towers."""

from vlm_dense.methods.joint_prompts.ivlp import IVLPPrompt
from vlm_dense.methods.joint_prompts.maple import MaPLePrompt

__all__ = ['IVLPPrompt', 'MaPLePrompt']
