"""Published methods; one method is one file that reads like its paper."""

from vlm_dense.methods import roles, text_prompts

__all__ = ['roles', 'text_prompts']
