"""From a graph to a program of ``torch.export``, with every size left open that the model allows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vlm_dense.errors import ConfigError
from vlm_dense.export.graph import Graph

Size = tuple[int, int]
"""(height, width) in px."""

_TRIED: tuple[Size, ...] = ((232, 296), (88, 72))
"""Sizes at which a graph is traced: no two sides of a map are equal, or 1; the second for a model with a limit."""
_TOLERANCE = 1e-3  # of the largest output


@dataclass
class Traced:
    """A traced graph.

    Attributes:
        program: What ``torch.export`` made.
        size: The only (height, width) that it takes; None: those from ``least`` to ``most``.
        least, most: Limits of height and width; ``most`` None: no limit.
        batch: Whether it takes batches of any size, else one image at a time.
        images: Batches that it was tried with.
    """

    program: ExportedProgram
    size: Size | None
    least: Size | None
    most: tuple[int | None, int | None]
    batch: bool
    images: list[Tensor]


@torch.no_grad()
def trace(graph: Graph, size: Size | None, window: Size | None = None) -> Traced:
    """Trace a graph and compare its outputs with the model's, on other batches and sizes than traced.

    Args:
        graph: Of the model.
        size: Height and width to fix; None: any, if the model allows it.
        window: What to fix if it does not.

    Raises:
        ConfigError: it cannot be traced, or a size must be given.
    """
    failures = []
    for tried, opened in _attempts(size, window):
        try:
            return _trace(graph, tried, opened)
        except Exception as error:  # torch.export fails in many ways
            failures.append(f'{tried[0]} x {tried[1]} px, {_words(opened)}: {_first_line(error)}')
    told = '\n'.join(dict.fromkeys(failures))
    if size is None and window is None:
        raise ConfigError(
            f'{type(graph.model).__name__} cannot be exported for images of any size:\n{told}\nName the size in px '
            'that it is to take, as in --size 336 336; images are then brought to it by your program.'
        )
    raise ConfigError(f'{type(graph.model).__name__} cannot be exported:\n{told}')


def _attempts(size: Size | None, window: Size | None) -> Iterator[tuple[Size, tuple[int, ...]]]:
    if size is None:
        for tried in _TRIED:
            yield tried, (0, 2, 3)
    fixed = size or window
    if fixed is not None:
        yield fixed, (0,)
        yield fixed, ()


def _words(opened: tuple[int, ...]) -> str:
    return {(0, 2, 3): 'all sizes left open', (0,): 'size of the batch left open', (): 'nothing left open'}[opened]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {" ".join(lines[:2])[:300]}'


def _trace(graph: Graph, size: Size, opened: tuple[int, ...]) -> Traced:
    images = torch.randn(2 if opened else 1, 3, *size, generator=torch.Generator().manual_seed(0))
    graph.drop_unused(images)
    with warnings.catch_warnings(), _plain_autocast():
        warnings.simplefilter('ignore')
        program = torch.export.export(graph, (images,), dynamic_shapes=({axis: Dim.DYNAMIC for axis in opened},))
        least, most = _limits(program)
        seen = [images]
        if opened:
            other = size if 2 not in opened else _other(size, least, most)
            seen.append(torch.randn(1, 3, *other, generator=torch.Generator().manual_seed(1)))
        module = program.module()
        for batch in seen:
            check_same(module(batch), graph(batch))
    if 2 in opened:
        return Traced(program, None, least, most, True, seen)
    return Traced(program, size, None, (None, None), bool(opened), seen)


def _plain_autocast():
    """Leave ``torch.autocast(enabled=False)``, which changes nothing here, out of the graph.

    Some become calls of subgraphs that torch 2.13 saves in a .pt2 and cannot load.
    """
    return patch.object(torch, 'autocast', lambda *args, **kwargs: nullcontext())


def _limits(program: ExportedProgram) -> tuple[Size, tuple[int | None, int | None]]:
    """Least and greatest height and width that a program takes."""
    node = next(n for n in program.graph.nodes if n.op == 'placeholder' and n.name == 'images')
    least, most = [], []
    for side in node.meta['val'].shape[2:]:
        limits = program.range_constraints.get(side.node.expr) if isinstance(side, torch.SymInt) else None
        least.append(side if limits is None and isinstance(side, int) else int(limits.lower))
        most.append(int(limits.upper) if limits is not None and limits.upper.is_Integer else None)
    return tuple(least), tuple(most)


def _other(size: Size, least: Size, most: tuple[int | None, int | None]) -> Size:
    """Another size within the limits: lower and wider."""
    height, width = max(size[0] - 21, least[0]), size[1] + 13
    return height, width if most[1] is None else min(width, most[1])


def check_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Compare outputs with those of the model.

    Raises:
        RuntimeError: they differ by more than rounding.
    """
    for one, other in zip(found, expected, strict=True):
        finite = other[other.isfinite()]
        scale = finite.abs().max().item() if len(finite) else 1.0
        if one.shape != other.shape or not torch.allclose(one, other, rtol=0, atol=_TOLERANCE * max(scale, 1e-6)):
            raise RuntimeError(f'the traced graph gives other numbers than the model, {tuple(one.shape)}')


def weights_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers that a module still has."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
