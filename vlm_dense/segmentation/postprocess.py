"""From the maps of an image's windows to scores and labels in original size: a list of steps, and how it is run.

Labels alone do without maps of all channels at full size: pixels are decided a strip of rows at a time or, behind a
step that needs whole planes, a few channels at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import (
    Aliases,
    AreaThreshold,
    ClassMaps,
    OriginalSize,
    PlaneStep,
    Probabilities,
    ProbabilityThreshold,
    Step,
    SumToOne,
)
from vlm_dense.segmentation.window_maps import StripMaps, WindowMaps, is_plain, original_size

CHANNELS_AT_ONCE = 8
"""Maps that are at full size at a time, where steps need whole planes."""

Describe = Callable[[Tensor], ClassMaps]
"""Kinds of the values (B, n, h, w) of a model's maps."""

_MERGED = (PlaneStep, OriginalSize, AreaThreshold, ProbabilityThreshold, SumToOne)
_OF_THE_BEST = (Probabilities, Aliases, ProbabilityThreshold, SumToOne)
"""Steps that give labels of the best channel of each pixel and its probability, in this order."""


class PostProcess:
    """A list of steps from the maps of windows to labels.

    In their order: steps in front of the first that looks at a whole image are taken on the map of each window, small
    as it is. Then windows are merged at the size of the image. From :class:`OriginalSize` on, which stands behind the
    steps on planes if the list has none, maps have the original size.

    Args:
        steps: :class:`Step`s or their configs.
        windows: Number of steps that are taken on the map of each window, if not as above.

    Raises:
        ConfigError: what is no step, a size that stands twice, or a step at a size at which it cannot be taken.
    """

    def __init__(self, steps: Sequence[Step | dict] = (), windows: int | None = None):
        self.steps = [build_step(step) for step in steps]
        merged = [i for i, step in enumerate(self.steps) if isinstance(step, _MERGED)]
        first = (merged or [len(self.steps)])[0] if windows is None else windows
        self._window, rest = self.steps[:first], self.steps[first:]
        sizes = [i for i, step in enumerate(rest) if isinstance(step, OriginalSize)]
        if len(sizes) > 1:
            raise ConfigError('postprocess: OriginalSize stands twice. Leave one of the two out.')
        if sizes:
            self._before, self.size, self._after = rest[: sizes[0]], rest[sizes[0]], rest[sizes[0] + 1 :]
        else:
            planes = next((i for i, step in enumerate(rest) if not isinstance(step, PlaneStep)), len(rest))
            self._before, self.size, self._after = rest[:planes], OriginalSize(), rest[planes:]
        wrong = [s for s in self._before if isinstance(s, (AreaThreshold, ProbabilityThreshold, SumToOne))]
        if wrong:
            raise ConfigError(
                f'postprocess: {type(wrong[0]).__name__} decides pixels of the original size. Put OriginalSize in '
                'front of it.'
            )

    def has(self, kind: type[Step]) -> bool:
        """Whether a step of a kind is in the list."""
        return any(isinstance(step, kind) for step in self.steps)

    def of_window(self, maps: ClassMaps) -> ClassMaps:
        """The map of a window behind the steps that are taken there."""
        return self._through(self._window, maps)

    @property
    def at_image_size(self) -> bool:
        """Whether all steps are taken before maps get their original size."""
        return not self._after

    def scores(self, maps: WindowMaps, image: Tensor, meta: dict, describe: Describe) -> ClassMaps:
        """Scores (1, K, H, W) in original size, and labels.

        Args:
            maps: Of the windows of an image, as :meth:`of_window` gives them.
            image: (3, h, w), as the network saw it.
            meta: Metainfo of the sample.
            describe: See :data:`Describe`, in front of all steps.
        """
        found = self.merged(maps, image, meta, describe)
        if not self._at_once(maps, meta):
            found = replace(found, values=original_size(found.values[0], meta, maps.align_corners)[None])
        return self._through(self._after, found, image)

    def merged(self, maps: WindowMaps, image: Tensor, meta: dict, describe: Describe) -> ClassMaps:
        """Maps (1, n, h, w) in front of :class:`OriginalSize`, at the size of the image; arguments as above."""
        describe = _behind(self._window, describe)
        if self._at_once(maps, meta):
            maps, describe = self._small(maps, meta, describe)
            return describe(maps.merged()[None])
        return self._through(self._before, describe(maps.merged()[None]), image)

    def labels(self, maps: WindowMaps, image: Tensor, meta: dict, describe: Describe) -> Tensor:
        """Labels (H, W), int64, in original size, without all maps at full size where that can be."""
        steps = self._before + self._after
        planes = [step for step in steps if isinstance(step, PlaneStep)]
        if planes:
            rest = [step for step in self._after if not isinstance(step, PlaneStep)]
            known = _behind(self._window, describe)(maps.windows[0].values[None])
            if steps == [*planes, *rest] and _follow_from_the_best(rest, known.kind):
                return self._labels_by_channels(maps, image, meta, known, rest)
            return self.scores(maps, image, meta, describe).decided[0]
        done: list[Callable[[ClassMaps], ClassMaps]] = []
        source, describe = self.strips(maps, image, meta, describe)

        def strips() -> Iterator[ClassMaps]:
            for _, rows in source.strips():
                found = describe(rows.movedim(-1, 0)[None])
                for step in done:
                    found = step(found)
                yield found

        for step in self._after:
            done.append(step.fitted(strips()))
        return torch.cat([strip.decided[0] for strip in strips()])

    def strips(self, maps: WindowMaps, image: Tensor, meta: dict, describe: Describe) -> tuple[StripMaps, Describe]:
        """Maps behind :class:`OriginalSize`, a few rows at a time, and what they are; arguments as above."""
        if self._at_once(maps, meta):
            maps, describe = self._small(maps, meta, _behind(self._window, describe))
            return StripMaps(maps, {}), describe
        if any(isinstance(step, PlaneStep) for step in self._before):
            found = self.merged(maps, image, meta, describe)
            maps = WindowMaps(maps.align_corners)
            maps.add((0, found.values.shape[2], 0, found.values.shape[3]), found.values[0])
            return StripMaps(maps, meta), lambda values: replace(found, values=values)
        describe = _behind(self._window, describe)
        if not self._before:
            return StripMaps(maps, meta), describe

        def change(rows: Tensor) -> Tensor:
            found = self._through(self._before, describe(rows.movedim(-1, 0)[None]))
            return found.values[0].movedim(0, -1).contiguous()

        return StripMaps(maps, meta, change), _behind(self._before, describe)

    def _labels_by_channels(
        self, maps: WindowMaps, image: Tensor, meta: dict, known: ClassMaps, rest: Sequence[Step]
    ) -> Tensor:
        if self._at_once(maps, meta):
            maps, meta = maps.stretched(_original(maps, meta)), {}
        before = [step.on(image) for step in self._before]
        after = None

        def groups() -> Iterator[Tensor]:
            nonlocal after
            for start in range(0, maps.channels, CHANNELS_AT_ONCE):
                values = maps.merged(slice(start, start + CHANNELS_AT_ONCE))
                for step in before:
                    values = step(values)
                values = original_size(values, meta, maps.align_corners)
                if after is None:
                    fitting = _fit(image, values.shape[1:])
                    after = [step.on(fitting) for step in self._after if isinstance(step, PlaneStep)]
                for step in after:
                    values = step(values)
                yield values

        scale = None
        if rest and isinstance(rest[0], Probabilities) and known.kind == 'logits':
            scale = rest[0].scale or known.scale
        best, labels = best_of(groups(), scale)
        if known.classes is not None:
            labels = torch.tensor(owners_of(known.classes), device=labels.device)[labels]
        for step in rest:
            if isinstance(step, ProbabilityThreshold):
                labels = labels.masked_fill(best < step.thresh, 0)
        return labels

    def _at_once(self, maps: WindowMaps, meta: dict) -> bool:
        planes = any(isinstance(step, PlaneStep) for step in self._before)
        return self.size.at_once and maps.whole and not planes and is_plain(meta)

    def _small(self, maps: WindowMaps, meta: dict, describe: Describe) -> tuple[WindowMaps, Describe]:
        """The map of an image in one piece as one of its original size, and what it is."""
        maps = maps.each(lambda x: self._through(self._before, describe(x[None])).values[0])
        return maps.stretched(_original(maps, meta)), _behind(self._before, describe)

    @staticmethod
    def _through(steps: Iterable[Step], maps: ClassMaps, image: Tensor | None = None) -> ClassMaps:
        for step in steps:
            if isinstance(step, PlaneStep):
                refine = step.on(_fit(image, maps.values.shape[2:]))
                maps = replace(maps, values=refine(maps.values[0])[None])
            else:
                maps = step.refine(maps)
        return maps


def build_step(step: Step | dict | str) -> Step:
    """A step of its config, which may be its name alone.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(step, Step):
        return step
    found = MODELS.build(dict(type=step) if isinstance(step, str) else step)
    if not isinstance(found, Step):
        raise ConfigError(
            f'{type(found).__name__} is no step between maps and labels. Choose among those of vlm_dense: Aliases, '
            'Probabilities, PAMR, OriginalSize, AreaThreshold, ProbabilityThreshold, SumToOne, ...'
        )
    return found


def owners_of(classes: Sequence[Sequence[str]]) -> list[int]:
    """The class of each name."""
    return [k for k, names in enumerate(classes) for _ in names]


def outcome_of(steps: Iterable[Step], maps: ClassMaps) -> ClassMaps:
    """The same values as what they are after some steps."""
    for step in steps:
        maps = step.outcome(maps)
    return maps


def best_of(groups: Iterable[Tensor], scale: float | None) -> tuple[Tensor, Tensor]:
    """The best of maps that come a few channels (n, H, W) at a time.

    Args:
        groups: The maps.
        scale: Give the probability of the best by a softmax over all channels of scale * maps; None: its value.

    Returns:
        Values (H, W), and channels (H, W), int64, the first of those that tie.
    """
    best = index = total = None
    start = 0
    for maps in groups:
        maps = maps if scale is None else scale * maps
        value, which = maps.max(dim=0)
        every = None if scale is None else maps.logsumexp(dim=0)
        if best is None:
            best, index, total = value, which, every
        else:
            better = value > best
            best, index = torch.where(better, value, best), torch.where(better, which + start, index)
            total = None if scale is None else torch.logaddexp(total, every)
        start += len(maps)
    return best if scale is None else (best - total).exp(), index


def _follow_from_the_best(steps: Sequence[Step], kind: str) -> bool:
    """Whether labels behind the steps need the best channel of each pixel only, of maps of a kind."""
    order = [_OF_THE_BEST.index(type(step)) if type(step) in _OF_THE_BEST else -1 for step in steps]
    means = any(isinstance(step, Aliases) and step.keep == 'mean' for step in steps)
    sums = 0 in order and kind == 'weights'
    return -1 not in order and order == sorted(set(order)) and not means and not sums


def _original(maps: WindowMaps, meta: dict) -> tuple[int, int]:
    """Original (H, W) of an image without padding."""
    return tuple(meta.get('ori_shape', maps.size)[:2])


def _behind(steps: Sequence[Step], describe: Describe) -> Describe:
    """Kind of the maps after steps that treat each pixel, or window, by itself."""
    return lambda values: outcome_of(steps, describe(values))


def _fit(image: Tensor, size: Sequence[int]) -> Tensor:
    """An image (3, h, w) at another size."""
    if image.shape[1:] == tuple(size):
        return image
    return F.interpolate(image[None].float(), tuple(size), mode='bilinear', align_corners=False)[0]
