"""Published methods; one method is one file that reads like its paper."""

from vlm_dense.methods import adapters, joint_prompts, others, roles, text_prompts, visual_prompts

__all__ = ['adapters', 'joint_prompts', 'others', 'roles', 'text_prompts', 'visual_prompts']
