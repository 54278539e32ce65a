"""Published methods; one method is one file that reads like its paper."""

from vlm_dense.methods import text_prompts

__all__ = ['text_prompts']
