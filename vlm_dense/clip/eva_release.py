"""EVA-CLIP's own names of weights, which CLIPSelf and DeCLIP kept in their released checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RENAMED = (
    (r'\.attn\.(q|v)_bias$', r'.attn.\1_proj.bias'),
    (r'\.attn\.inner_attn_ln\.', '.attn.norm.'),
    (r'\.mlp\.w1\.', '.mlp.fc1_g.'),
    (r'\.mlp\.w2\.', '.mlp.fc1_x.'),
    (r'\.mlp\.w3\.', '.mlp.fc2.'),
    (r'\.mlp\.ffn_ln\.', '.mlp.norm.'),
)
"""Names in a block -> those of timm's ``Eva``."""


def is_eva_release(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has EVA-CLIP's names of an image tower."""
    return any(key.startswith('visual.blocks.') for key in state_dict)


def convert_eva(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EVA-CLIP's names as open_clip's, ``visual.trunk.*``.

    Tables of rotary positions, which are computed, are left out. The entries of the text tower, ``text.*``, stay.
    """
    fused = any('.attn.qkv.' in key for key in state_dict)  # then timm keeps the biases apart, too
    found = {}
    for key, value in state_dict.items():
        if re.search(r'(^|\.)rope\.', key):
            continue
        if key.startswith('visual.') and not key.startswith('visual.trunk.'):
            key = f'visual.trunk.{key.removeprefix("visual.")}'
            for pattern, new in _RENAMED[fused:]:
                key = re.sub(pattern, new, key)
        found[key] = value
    return found
