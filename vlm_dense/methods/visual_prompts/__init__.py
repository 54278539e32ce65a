"""How prompts enter the image tower."""

from vlm_dense.methods.visual_prompts.reprompt import RePrompt
from vlm_dense.methods.visual_prompts.vp import VPPrompt
from vlm_dense.methods.visual_prompts.vpt import VPTPrompt

__all__ = ['RePrompt', 'VPPrompt', 'VPTPrompt']
