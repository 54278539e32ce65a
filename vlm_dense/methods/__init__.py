"""Published methods; one method is one file, or one folder where it has parts, and reads like its paper."""

from importlib.util import find_spec

from vlm_dense.methods import (
    adapters,
    dense,
    denseclip,
    fine_tuning,
    joint_prompts,
    maskclip,
    maskclip_plus,
    test_time,
    text_prompts,
    visual_prompts,
)

__all__ = [
    'adapters',
    'dense',
    'denseclip',
    'fine_tuning',
    'joint_prompts',
    'maskclip',
    'maskclip_plus',
    'test_time',
    'text_prompts',
    'visual_prompts',
]

if find_spec('mmdet'):
    from vlm_dense.methods.denseclip import detector  # noqa: F401
