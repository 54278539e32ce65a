"""Choice of QuickGELU or GELU for CLIP weights, which do not record it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from mmengine.logging import print_log
from torch import Tensor

from vlm_dense.clip.weight_files import file_kind

OPENAI_ENTRIES = ('input_resolution', 'context_length', 'vocab_size')
"""Numbers that OpenAI stores beside the weights; no parameter has these names."""


def decide_gelu(
    arch: str | Mapping,
    config: dict,
    quick_gelu: bool | None,
    tag_config: dict,
    path: Path | None,
    state_dict: dict[str, Tensor],
) -> tuple[bool, str]:
    """Whether the model needs QuickGELU, and why; the rule stands in :func:`vlm_dense.clip.load_clip`."""
    if quick_gelu is not None:
        return quick_gelu, f'quick_gelu={quick_gelu} was asked for'
    if 'quick_gelu' in config:
        return config['quick_gelu'], 'the architecture says so'
    if tag_config:
        return tag_config.get('quick_gelu', False), "open_clip's table of weights says so"
    if path and _is_openai_release(path, state_dict):
        return True, "the file is a release of OpenAI's"
    tags = [] if isinstance(arch, Mapping) else open_clip.list_pretrained_tags_by_model(arch)
    quick = [tag for tag in tags if open_clip.get_pretrained_cfg(arch, tag).get('quick_gelu')]
    if quick and len(quick) == len(tags):
        return True, f'all published weights of {arch} use it'
    if quick and path:
        print_log(
            f'{path} does not tell whether it needs GELU, as {arch} has it, or QuickGELU. If these are the weights '
            f"{', '.join(quick)}, use arch='{arch}-quickgelu'.",
            logger='current',
            level=logging.WARNING,
        )
    return False, 'nothing asks for QuickGELU'


def _is_openai_release(path: Path, state_dict: dict[str, Tensor]) -> bool:
    if any(key in state_dict for key in OPENAI_ENTRIES) or file_kind(path) == 'TorchScript':
        return True
    half = any(value.dtype == torch.float16 for value in state_dict.values())
    return half and path.name in _openai_file_names()


@functools.cache
def _openai_file_names() -> frozenset[str]:
    models = open_clip.list_pretrained_models_by_tag('openai')
    return frozenset(os.path.basename(open_clip.get_pretrained_url(model, 'openai')) for model in models)
