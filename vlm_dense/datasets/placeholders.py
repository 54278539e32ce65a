"""Names that a config fills in: ``{task}`` in the data set of each task, ``{set}`` in the recipes of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def filled(node: Any, name: str, value: str) -> Any:
    """A copy of a config, with ``value`` instead of ``name`` in its strings."""
    if isinstance(node, str):
        return node.replace(name, value)
    if isinstance(node, Mapping):
        return {key: filled(each, name, value) for key, each in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(filled(each, name, value) for each in node)
    return node


def of_tasks(datasets: Mapping | Sequence[dict], tasks: Sequence[str]) -> Sequence[dict]:
    """A config for each task: those given, or one for all of them in which ``{task}`` is the name of the task."""
    return [filled(datasets, '{task}', task) for task in tasks] if isinstance(datasets, Mapping) else datasets
