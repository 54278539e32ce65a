"""Steps from the maps of classes or of their names to labels: what they hand on, and those of more than one paper."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import Aliases as Names


@dataclass
class ClassMaps:
    """Maps on their way through the steps.

    Attributes:
        values: (B, n, h, w), float32.
        scale: What logits are multiplied by before the softmax: 1, or the inverse temperature of cosines.
        classes: The names of each class, while there is a map for each name; None once there is one for each class.
        key: (B, h * w, C) keys of the positions; None if the tower gives none.
        kind: What ``values`` are: ``'logits'``; ``'weights'``, probabilities once they are divided by their sum over
            channels; or ``'probabilities'``, which need not sum to one, as those of independent sigmoids.
        labels: (B, h, w), int64, once a step has decided; until then the largest value wins.
        background: Index of the class that takes the maximum over its names in any case.
    """

    values: Tensor
    scale: float = 1.0
    classes: tuple[Names, ...] | None = None
    key: Tensor | None = None
    kind: str = 'logits'
    labels: Tensor | None = None
    background: int | None = None

    @property
    def probabilities(self) -> Tensor:
        """(B, n, h, w); of a single channel of logits their sigmoid."""
        if self.kind == 'probabilities':
            return self.values
        if self.kind == 'weights':
            return self.values / self.values.sum(dim=1, keepdim=True)
        if self.values.shape[1] == 1:
            return self.values.sigmoid()
        return (self.scale * self.values).softmax(dim=1)

    @property
    def decided(self) -> Tensor:
        """Labels (B, h, w); of classes that tie the first."""
        return self.values.argmax(dim=1) if self.labels is None else self.labels


class Step(nn.Module):
    """A step between the maps of a network and labels; subclasses override what they change.

    Attributes:
        in_training: Whether the step is also taken in training, by the head.
    """

    in_training = False

    def change_names(self, classes: tuple[Names, ...]) -> tuple[Names, ...]:
        """The names by which each class is looked for; unchanged here."""
        return classes

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """The maps after this step; unchanged here."""
        return maps

    def outcome(self, maps: ClassMaps) -> ClassMaps:
        """The same values as what they are after this step: ``classes`` and ``kind`` may change."""
        return maps

    def fitted(self, strips: Iterable[ClassMaps]) -> Callable[[ClassMaps], ClassMaps]:
        """The step for strips of rows, fitted to the whole image; by default it needs no fit."""
        return self.refine

    @property
    def config(self) -> dict:
        """The config that builds this step, with all its arguments."""
        given = inspect.signature(type(self)).parameters.values()
        options = {p.name: getattr(self, p.name) for p in given if p.kind is p.POSITIONAL_OR_KEYWORD}
        return dict(type=f'vlm_dense.{type(self).__name__}', **options)

    def __str__(self) -> str:
        """The config as one writes it, without defaults."""
        defaults = {p.name: p.default for p in inspect.signature(type(self)).parameters.values()}
        shown = {k: v for k, v in self.config.items() if k == 'type' or v != defaults[k]}
        return f'dict({", ".join(f"{k}={v!r}" for k, v in shown.items())})'


class PlaneStep(Step):
    """A step on maps at the size of an image that uses neighbouring pixels and treats each channel by itself."""

    def on(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """A function of maps (n, H, W), for an image (3, H, W)."""
        raise NotImplementedError


@MODELS.register_module()
class Aliases(Step):
    """Score of a class with several names.

    Args:
        keep: The ``'max'`` or ``'mean'`` over its names, or ``'first'``: names after the first, which is the published
            one in the lists of the package, are left out. Names of the background always give their maximum.
        keep_all: Classes that keep all names under ``'first'``, as a background that is written as many things.

    Raises:
        ConfigError: another word.
    """

    def __init__(self, keep: str = 'max', keep_all: Sequence[int] = ()):
        super().__init__()
        if keep not in ('max', 'mean', 'first'):
            raise ConfigError(f"Aliases: keep must be one of ('max', 'mean', 'first'), found {keep!r}.")
        self.keep = keep
        self.keep_all = tuple(keep_all)

    def change_names(self, classes: tuple[Names, ...]) -> tuple[Names, ...]:
        """All names of each class, or the first."""
        if self.keep != 'first':
            return classes
        return tuple(names if k in self.keep_all else names[:1] for k, names in enumerate(classes))

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """Maps of classes, -inf for a class without name."""
        if maps.classes is None:
            return maps
        counts = [len(names) for names in maps.classes]
        if any(count != 1 for count in counts):
            found = []
            for k, each in enumerate(maps.values.split(counts, dim=1)):
                if each.shape[1] == 0:
                    found.append(torch.full_like(maps.values[:, 0], -math.inf))
                elif self.keep == 'mean' and k != maps.background:
                    found.append(each.mean(dim=1))
                else:
                    found.append(each.amax(dim=1))
            maps = replace(maps, values=torch.stack(found, dim=1))
        return self.outcome(maps)

    def outcome(self, maps: ClassMaps) -> ClassMaps:
        """Maps of classes; the largest probabilities of their names do not sum to one."""
        return replace(maps, classes=None, kind='weights' if maps.kind == 'probabilities' else maps.kind)


@MODELS.register_module()
class Probabilities(Step):
    """Probabilities out of logits or cosines, by a softmax over all channels.

    Args:
        scale: Inverse temperature; default: that of the model.

    Raises:
        ConfigError: a scale that is not positive.
    """

    def __init__(self, scale: float | None = None):
        super().__init__()
        if scale is not None and scale <= 0:
            raise ConfigError(f'Probabilities: scale must be positive, found {scale}.')
        self.scale = scale

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """The maps as probabilities."""
        scaled = maps if self.scale is None else replace(maps, scale=self.scale)
        return self.outcome(replace(maps, values=scaled.probabilities))

    def outcome(self, maps: ClassMaps) -> ClassMaps:
        """Probabilities."""
        return replace(maps, kind='probabilities')


@MODELS.register_module()
class OriginalSize(Step):
    """Merged maps go to the image's original size, without padding and not flipped.

    Args:
        at_once: An image that was segmented in one piece goes there from the map of the network; else by the size at
            which it was segmented, as windows do.
    """

    def __init__(self, at_once: bool = False):
        super().__init__()
        self.at_once = at_once


def _share(kind: str, thresh: float) -> float:
    if not 0 <= thresh < 1:
        raise ConfigError(f'{kind}: thresh must be at least 0 and below 1, found {thresh}.')
    return thresh


@MODELS.register_module()
class AreaThreshold(Step):
    """Classes with too small an area are taken out of the image: their pixels go to their next best class.

    "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024, the released code.

    Args:
        thresh: Share of the pixels that are not of class 0, the background, which a class must exceed.

    Raises:
        ConfigError: a threshold that is no share.
    """

    def __init__(self, thresh: float):
        super().__init__()
        self.thresh = _share('AreaThreshold', thresh)

    def fitted(self, strips: Iterable[ClassMaps]) -> Callable[[ClassMaps], ClassMaps]:
        """The step with the classes that are large enough in the strips of an image."""
        pixels = sum(s.values.argmax(dim=1).flatten().bincount(minlength=s.values.shape[1]) for s in strips)
        kept = pixels > self.thresh * pixels[1:].sum()
        kept[0] = True
        return lambda maps: replace(maps, values=maps.values * kept[:, None, None])

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """Maps (1, K, H, W) of an image, 0 for classes that are too small."""
        return self.fitted([maps])(maps)


@MODELS.register_module()
class ProbabilityThreshold(Step):
    """Pixels without a class of this probability get class 0, the background by its position; maps stay as they are.

    Args:
        thresh: Probability.

    Raises:
        ConfigError: a threshold that is no probability.
    """

    def __init__(self, thresh: float):
        super().__init__()
        self.thresh = _share('ProbabilityThreshold', thresh)

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """The maps with labels."""
        best, labels = maps.values.max(dim=1)
        return replace(maps, labels=labels.masked_fill(best < self.thresh, 0))


@MODELS.register_module()
class SumToOne(Step):
    """Scores are divided by their sum over classes; labels stay those of the scores before."""

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """The divided maps, with labels."""
        values = maps.values / maps.values.sum(dim=1, keepdim=True)
        return self.outcome(replace(maps, values=values, labels=maps.decided))

    def outcome(self, maps: ClassMaps) -> ClassMaps:
        """Probabilities."""
        return replace(maps, kind='probabilities')
