"""The role of a refinement, and what is handed from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vlm_dense.vocabulary.class_names import Aliases as Names


@dataclass
class ClassMaps:
    """Maps of classes on their way through the refinements.

    Attributes:
        values: (B, K, h, w), float32: cosines; with ``summed`` sums of probabilities, not bounded by 1.
        scale: Inverse temperature of the probabilities.
        key: (B, h * w, C) keys of the positions; None if the tower gives none.
        summed: See ``values``.
    """

    values: Tensor
    scale: float
    key: Tensor | None = None
    summed: bool = False

    @property
    def probabilities(self) -> Tensor:
        """(B, K, h, w), which sum to one over the classes."""
        if self.summed:
            return self.values / self.values.sum(dim=1, keepdim=True)
        return (self.scale * self.values).softmax(dim=1)


class Refinement(nn.Module):
    """A step between the cosines of names and the maps of classes; subclasses override what they change.

    Attributes:
        in_training: Whether the step is also taken in training.
    """

    in_training = False

    def change_names(self, classes: tuple[Names, ...]) -> tuple[Names, ...]:
        """The names by which each class is looked for; unchanged here."""
        return classes

    def refine(self, maps: ClassMaps) -> ClassMaps:
        """The maps after this step; unchanged here."""
        return maps
