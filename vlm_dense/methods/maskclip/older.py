"""Options from before there were lists of steps: the one place that turns them into entries of the lists."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from vlm_dense.errors import ConfigError
from vlm_dense.methods.maskclip.refinements import (
    KeySmoothing,
    NamedBackground,
    PromptDenoising,
    ThresholdBackground,
)
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.steps import (
    Aliases,
    AreaThreshold,
    OriginalSize,
    Probabilities,
    ProbabilityThreshold,
    Step,
    SumToOne,
)

OF_HEAD = ('aliases', 'background', 'pd_thresh', 'ks_thresh', 'ks_norm')
"""Arguments of MaskCLIPHead, which change ``refinements``."""
OF_MODEL = ('pamr', 'decision')
"""Arguments of MaskCLIP, which change ``postprocess``."""

_REFINEMENTS = (Aliases, NamedBackground, PromptDenoising, KeySmoothing, ThresholdBackground)
_DECISION = (OriginalSize, PAMR, Probabilities, Aliases, AreaThreshold, ProbabilityThreshold, SumToOne)
_BACKGROUND = dict(index=0, names=None, thresh=None)
_OPTIONS: dict[str, Callable[[Any], Step | None]] = dict(
    two_steps=lambda value: OriginalSize(at_once=not value),
    pamr=lambda value: None if value is None else PAMR(**value),
    scale=Probabilities,
    area_thresh=lambda value: None if value is None else AreaThreshold(value),
    prob_thresh=lambda value: ProbabilityThreshold(value) if value else None,
    sum_to_one=lambda value: SumToOne() if value else None,
)
_KINDS = dict(zip(_OPTIONS, (kind for kind in _DECISION if kind is not Aliases), strict=True))


def take(options: dict, names: Sequence[str]) -> dict:
    """Take the older ones out of keyword arguments."""
    return {name: options.pop(name) for name in names if name in options}


def refinements(parts: list[Step], options: dict) -> list[Step]:
    """``refinements`` of a head as its older options change them.

    Args:
        parts: The list.
        options: ``aliases`` is :class:`Aliases`; ``background=dict(index=0, names=[...], thresh=0.5)`` are
            :class:`NamedBackground` and :class:`ThresholdBackground`; ``pd_thresh`` and ``ks_thresh`` are
            :class:`PromptDenoising` and :class:`KeySmoothing`, which 0 takes out, and ``ks_norm`` its ``norm``.

    Raises:
        ConfigError: an option that cannot be.
    """
    if 'aliases' in options:
        parts = _put(parts, _REFINEMENTS, Aliases, Aliases(options['aliases']))
    if options.get('background') is not None:
        found = _BACKGROUND | dict(options['background'])
        if set(found) != set(_BACKGROUND) or (found['names'] is None and found['thresh'] is None):
            raise ConfigError(
                'MaskCLIPHead: background takes index, names and thresh, with names or thresh or both, found '
                f'{dict(options["background"])}.'
            )
        index, names, thresh = found['index'], found['names'], found['thresh']
        named = None if names is None else NamedBackground(names, index)
        parts = _put(parts, _REFINEMENTS, NamedBackground, named)
        sure = None if thresh is None else ThresholdBackground(thresh, index)
        parts = _put(parts, _REFINEMENTS, ThresholdBackground, sure)
    if 'pd_thresh' in options:
        thresh = options['pd_thresh']
        parts = _put(parts, _REFINEMENTS, PromptDenoising, PromptDenoising(thresh) if thresh > 0 else None)
    if 'ks_thresh' in options or 'ks_norm' in options:
        own = next((part for part in parts if isinstance(part, KeySmoothing)), KeySmoothing(0))
        smoothing = KeySmoothing(options.get('ks_thresh', own.thresh), options.get('ks_norm', own.norm))
        parts = _put(parts, _REFINEMENTS, KeySmoothing, smoothing if smoothing.thresh > 0 else None)
    _warn('MaskCLIPHead', options, 'refinements', parts)
    return parts


def postprocess(steps: list[Step], options: dict) -> list[Step]:
    """``postprocess`` of a model as its older options change it.

    Args:
        steps: The list.
        options: ``pamr`` is :class:`PAMR` of the probabilities at the size of the image. ``decision`` is what follows
            :class:`OriginalSize`: ``scale`` of :class:`Probabilities`, ``area_thresh``, ``prob_thresh``,
            ``sum_to_one``, ``pamr``; and ``two_steps``, the opposite of ``at_once``. None: without them.

    Raises:
        ConfigError: an option that cannot be.
    """
    start = next((i for i, step in enumerate(steps) if isinstance(step, OriginalSize)), len(steps))
    before, after = steps[:start], steps[start:]
    if options.get('pamr') is not None:
        before = _put(before, (Probabilities, PAMR), PAMR, PAMR(**options['pamr']))
        if not any(isinstance(step, Probabilities) for step in before):
            before = _put(before, (Probabilities, PAMR), Probabilities, Probabilities())
    if options.get('decision') is not None:
        decision = dict(options['decision'])
        unknown = set(decision) - set(_OPTIONS)
        if unknown:
            raise ConfigError(f'MaskCLIP: decision has no {sorted(unknown)}. It takes {", ".join(_OPTIONS)}.')
        if not after:
            after, decision = [Aliases()], dict(two_steps=False, scale=40.0) | decision
        for name, value in decision.items():
            after = _put(after, _DECISION, _KINDS[name], _OPTIONS[name](value))
    elif 'decision' in options:
        after = []
    _warn('MaskCLIP', options, 'postprocess', before + after)
    return before + after


def _put(steps: list[Step], order: Sequence[type], kind: type, new: Step | None) -> list[Step]:
    """The list with another step of a kind, at its old position or in the usual order; None: without."""
    same = [i for i, step in enumerate(steps) if isinstance(step, kind)]
    if same:
        return steps[: same[0]] + ([] if new is None else [new]) + steps[same[0] + 1 :]
    if new is None:
        return steps
    later = tuple(order[order.index(kind) + 1 :])
    position = next((i for i, step in enumerate(steps) if isinstance(step, later)), len(steps))
    return [*steps[:position], new, *steps[position:]]


def _warn(owner: str, options: dict, name: str, steps: Sequence[Step]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        text = f'{owner}: {" and ".join(given)} will be removed; the same is {name}=[{", ".join(map(str, steps))}].'
        warnings.warn(text, FutureWarning, stacklevel=3)
