"""Quicker kernels for a model's parts: ``torch.compile``, and channels last."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.errors import ConfigError
from vlm_dense.registry import HOOKS

_PARTS = ('backbone', 'neck', 'context_decoder', 'decode_head', 'identity_head', 'bbox_head', 'rpn_head')
"""Children of a model of mmseg or mmdet with a ``forward`` from tensors to tensors."""


def compile_parts(model: nn.Module, **options: Any) -> list[str]:
    """Compile the parts of a model that map tensors to tensors with ``torch.compile``.

    These are CLIP's towers, wherever they are in the model, and its backbone, neck, context decoder and dense heads.
    Data samples, losses, the look-up of what a frozen tower remembers, and the optimiser stay outside. Weights, their
    names and results stay as they are.

    Args:
        model: Changed in place; without distributed wrapper.
        **options: Of ``torch.compile``: ``backend``, ``mode``, ``dynamic``, ...

    Returns:
        The names of the parts.

    Raises:
        ConfigError: there is nothing to compile.
    """
    towers = {name: m for name, m in model.named_modules() if isinstance(m, (ImageTower, TextTower))}
    for tower in towers.values():
        tower.encode = torch.compile(tower.encode, **options)
    others = {name: part for name in _PARTS if isinstance(part := getattr(model, name, None), nn.Module)}
    others = {name: part for name, part in others.items() if name not in towers}
    for part in others.values():
        part.forward = torch.compile(part.forward, **options)
    if not towers and not others:
        raise ConfigError(
            f'compile: {type(model).__name__} has no CLIP tower and none of the parts {", ".join(_PARTS)}. Leave '
            'compile out of the config.'
        )
    return [*towers, *others]


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps the weights of convolutions in channels-last order, in which their maps then come as well.

    Numbers stay the same but for rounding. It can pay where convolutions are most of the work, as with ResNets.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Change the order of the runner's model."""
        runner.model.to(memory_format=torch.channels_last)
        print_log('Convolutions in channels-last order.', 'current')
