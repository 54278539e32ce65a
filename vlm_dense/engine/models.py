"""Operations of the engine on models of any task."""

from __future__ import annotations

import copy

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def view_of(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its parameters and buffers; everything else is its own."""
    view = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    return view if model.training else view.eval()  # torchvision's feature extractors are copied in training mode


def bare_model(runner: Runner) -> nn.Module:
    """The model of a run, out of what distributes it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
