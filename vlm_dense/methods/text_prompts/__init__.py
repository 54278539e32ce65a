"""How class names become class embeddings."""

from vlm_dense.methods.text_prompts.base import TextPrompt
from vlm_dense.methods.text_prompts.denseclip import DenseCLIPPrompt
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt

__all__ = ['DenseCLIPPrompt', 'TextPrompt', 'ZeroShotPrompt']
