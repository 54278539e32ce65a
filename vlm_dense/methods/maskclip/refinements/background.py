"""A background class, none of the others: by names, or by a threshold."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import ClassMaps, Step
from vlm_dense.vocabulary.class_names import Aliases as Names
from vlm_dense.vocabulary.class_names import as_class_names


class Background(Step):
    """A class at ``index``; its own name is not used."""

    in_training = True
    index: int

    def check_index(self, classes: tuple[Names, ...]) -> None:
        """Refuse a list of classes that has no such class.

        Raises:
            ClassNamesError: see above.
        """
        if not 0 <= self.index < len(classes) or len(classes) == 1:
            raise ClassNamesError(
                f'{type(self).__name__}: index={self.index} must be one of at least two classes, found '
                f'{len(classes)} names.'
            )

    def put(self, classes: tuple[Names, ...], names: Names) -> tuple[Names, ...]:
        """The classes with other names of the background."""
        self.check_index(classes)
        return (*classes[: self.index], names, *classes[self.index + 1 :])


@MODELS.register_module()
class NamedBackground(Background):
    """The background is where one of its names wins.

    Args:
        names: What it may consist of, or the name or path of a list.
        index: Its class.
    """

    def __init__(self, names: str | list[str], index: int = 0):
        super().__init__()
        self.names = tuple(name for aliases in as_class_names(names) for name in aliases)
        self.index = index

    def change_names(self, classes: tuple[Names, ...]) -> tuple[Names, ...]:
        """The classes with these names of the background."""
        return as_class_names([list(names) for names in self.put(classes, self.names)])


@MODELS.register_module()
class ThresholdBackground(Background):
    """The background is where no class has this probability.

    The background's map is set to the value of a class of this probability where that is higher. Probabilities are
    ``softmax(scale * cosine)`` or, after key smoothing, the weighted sums divided by their sum over classes.

    Args:
        thresh: Probability, above 0 and up to 1.
        index: Class of the background, which has no name unless a :class:`NamedBackground` in front of it gives some.

    Raises:
        ConfigError: a threshold that is no probability.
    """

    def __init__(self, thresh: float, index: int = 0):
        super().__init__()
        if not 0 < thresh <= 1:
            raise ConfigError(f'ThresholdBackground: thresh is a probability, above 0 and up to 1, found {thresh}.')
        self.thresh, self.index = thresh, index
        self.named = False

    def change_names(self, classes: tuple[Names, ...]) -> tuple[Names, ...]:
        """The classes without a name of the background, unless it is a named one."""
        self.check_index(classes)
        return classes if self.named else self.put(classes, ())

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """The background's map raised to the level of the threshold."""
        values = maps.values
        if maps.kind == 'weights':
            level = self.thresh * values.sum(dim=1)
        else:
            level = (math.log(self.thresh) + (maps.scale * values).logsumexp(dim=1)) / maps.scale
        values = values.clone()
        values[:, self.index] = torch.maximum(values[:, self.index], level)
        return replace(maps, values=values)
