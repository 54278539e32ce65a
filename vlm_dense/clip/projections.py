"""Training of single projections of attention, with everything else of a tower frozen.

CLIP keeps the weights of queries, keys and values in one tensor. To train two of the three, it does not do to mask the
gradient of the third: an optimiser with weight decay would still shrink it. So the tensor is put together of three.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vlm_dense.errors import ConfigError

PARTS = ('q', 'k', 'v')
_STORED = 'parametrizations.in_proj_weight.original{}'


class _Thirds(nn.Module):
    """``in_proj_weight`` (3 C, C) of the weights (C, C) of queries, keys and values."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([q, k, v])

    def right_inverse(self, weight: Tensor) -> list[Tensor]:
        return [part.clone() for part in weight.chunk(3)]


def train_projections(tower: nn.Module, parts: Sequence[str] = 'qv') -> None:
    """Freeze a tower but for the weights (not biases) of some projections in the attention of all its blocks.

    Afterwards ``attn.in_proj_weight`` consists of three parameters,
    ``attn.parametrizations.in_proj_weight.original0`` to ``original2``.

    Args:
        tower: Of images or texts, with ``transformer.resblocks``.
        parts: Any of ``'q'``, ``'k'`` and ``'v'``; none freezes all.

    Raises:
        ConfigError: another part, or a tower without such blocks.
    """
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        raise ConfigError(f'Projections of attention are {list(PARTS)}, found {wrong}.')
    if not hasattr(tower, 'transformer'):
        raise ConfigError(
            f'{type(tower).__name__} has no blocks with attention, of which single projections could be trained. Use '
            "'vlm_dense.CLIPViT', or train nothing of CLIP."
        )
    tower.requires_grad_(False)
    if not parts:
        return
    for block in tower.transformer.resblocks:
        parametrize.register_parametrization(block.attn, 'in_proj_weight', _Thirds())
        stored = block.attn.parametrizations.in_proj_weight
        for i, part in enumerate(PARTS):
            getattr(stored, f'original{i}').requires_grad_(part in parts)


def freeze_projection(block: nn.Module, part: str) -> None:
    """Freeze one projection of a block of a tower that :func:`train_projections` was called for."""
    if parametrize.is_parametrized(block.attn, 'in_proj_weight'):
        getattr(block.attn.parametrizations.in_proj_weight, f'original{PARTS.index(part)}').requires_grad_(False)


def rename_projections(state_dict: MutableMapping[str, Tensor], tower: nn.Module, prefix: str) -> None:
    """Give weights of a checkpoint the names that the tower has for them.

    Args:
        state_dict: With ``attn.in_proj_weight`` of published CLIPs, or ``attn.q_proj_weight``, ``k_proj_weight`` and
            ``v_proj_weight``; changed.
        tower: What will load it.
        prefix: Of the tower's keys in the state dict.
    """
    for name, module in tower.named_modules():
        if not name.endswith('.attn'):
            continue
        start = f'{prefix}{name}.'
        parts = [state_dict.pop(f'{start}{part}_proj_weight', None) for part in PARTS]
        whole = state_dict.pop(f'{start}in_proj_weight', None)
        if whole is None and all(part is not None for part in parts):
            whole = torch.cat(parts)
        if whole is None:
            continue
        if parametrize.is_parametrized(module, 'in_proj_weight'):
            state_dict.update({start + _STORED.format(i): part for i, part in enumerate(whole.chunk(3))})
        else:
            state_dict[f'{start}in_proj_weight'] = whole
