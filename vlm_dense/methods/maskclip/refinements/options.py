"""Refinements out of a config: the list of parts, and the older options of MaskCLIPHead."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.errors import ConfigError
from vlm_dense.methods.maskclip.refinements.aliases import Aliases
from vlm_dense.methods.maskclip.refinements.background import Background, NamedBackground, ThresholdBackground
from vlm_dense.methods.maskclip.refinements.base import Refinement
from vlm_dense.methods.maskclip.refinements.denoising import PromptDenoising
from vlm_dense.methods.maskclip.refinements.smoothing import KeySmoothing
from vlm_dense.registry import MODELS

OPTIONS = ('aliases', 'background', 'pd_thresh', 'ks_thresh', 'ks_norm')
"""The older spelling, as arguments of MaskCLIPHead."""

_ORDER = (Aliases, NamedBackground, PromptDenoising, KeySmoothing, ThresholdBackground)


def build_refinements(cfgs: Sequence[dict | Refinement], options: dict) -> list[Refinement]:
    """The refinements of a head, in their order.

    Args:
        cfgs: Configs of the parts, or parts.
        options: Of :data:`OPTIONS`; they change the list: ``aliases`` is :class:`Aliases`; ``background=dict(index=0,
            names=[...], thresh=0.5)`` are :class:`NamedBackground` and :class:`ThresholdBackground`; ``pd_thresh`` and
            ``ks_thresh`` are :class:`PromptDenoising` and :class:`KeySmoothing`, which 0 takes out.

    Raises:
        ConfigError: a part that is none, one that comes twice or at the wrong place, or an option that cannot be.
    """
    parts = [cfg if isinstance(cfg, Refinement) else MODELS.build(cfg) for cfg in cfgs]
    names = [type(part).__name__ for part in parts]
    wrong = [name for name, part in zip(names, parts, strict=True) if not isinstance(part, Refinement)]
    if wrong:
        raise ConfigError(f'MaskCLIPHead: {wrong} are no refinements. Choose among those of vlm_dense.')
    if len(set(names)) < len(names):
        raise ConfigError(f'MaskCLIPHead: each refinement can stand once in the list, found {names}.')
    if 'Aliases' not in names:
        parts.insert(0, Aliases())
    elif names[0] != 'Aliases':
        raise ConfigError(f'MaskCLIPHead: Aliases makes classes of names, so it stands first, found {names}.')
    return _joined(_changed(parts, options))


def _changed(parts: list[Refinement], options: dict) -> list[Refinement]:
    """The parts as the older options change them."""
    if 'aliases' in options:
        parts = _put(parts, Aliases, Aliases(options['aliases']))
    if options.get('background') is not None:
        found = dict(dict(index=0, names=None, thresh=None), **options['background'])
        if set(found) != {'index', 'names', 'thresh'} or (found['names'] is None and found['thresh'] is None):
            raise ConfigError(
                'MaskCLIPHead: background takes index, names and thresh, with names or thresh or both, found '
                f'{dict(options["background"])}.'
            )
        index, names, thresh = found['index'], found['names'], found['thresh']
        parts = _put(parts, NamedBackground, None if names is None else NamedBackground(names, index))
        parts = _put(parts, ThresholdBackground, None if thresh is None else ThresholdBackground(thresh, index))
    if 'pd_thresh' in options:
        thresh = options['pd_thresh']
        parts = _put(parts, PromptDenoising, PromptDenoising(thresh) if thresh > 0 else None)
    if 'ks_thresh' in options or 'ks_norm' in options:
        own = next((part for part in parts if isinstance(part, KeySmoothing)), KeySmoothing(0))
        smoothing = KeySmoothing(options.get('ks_thresh', own.thresh), options.get('ks_norm', own.norm))
        parts = _put(parts, KeySmoothing, smoothing if smoothing.thresh > 0 else None)
    return parts


def _put(parts: list[Refinement], kind: type, new: Refinement | None) -> list[Refinement]:
    """The list with another part of a kind, at its old place or in the usual order; None: without."""
    same = [i for i, part in enumerate(parts) if isinstance(part, kind)]
    if same:
        return parts[: same[0]] + ([] if new is None else [new]) + parts[same[0] + 1 :]
    if new is None:
        return parts
    later = _ORDER[_ORDER.index(kind) + 1 :]
    place = next((i for i, part in enumerate(parts) if isinstance(part, later)), len(parts))
    return [*parts[:place], new, *parts[place:]]


def _joined(parts: list[Refinement]) -> list[Refinement]:
    """Tell the threshold whether its class has names; there is one background."""
    found = [part for part in parts if isinstance(part, Background)]
    if len({part.index for part in found}) > 1:
        raise ConfigError(f'MaskCLIPHead: one class is the background, found {[part.index for part in found]}.')
    for part in found:
        if isinstance(part, ThresholdBackground):
            part.named = len(found) > 1
    return parts
