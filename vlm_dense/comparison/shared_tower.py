"""One image tower for several models: blocks that all of them run on the same images are run once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vlm_dense.clip.block_tower import BlockTower


class SharedTower:
    """A frozen ViT with blocks that cache their outputs for a batch of images.

    Each model gets a :meth:`view`: the same weights, and a ``dense_attention`` of its own. Where a block is asked for
    the output of an input that it has seen, it gives that output again, so the results are those of separate towers,
    bit for bit.
    """

    def __init__(self, tower: BlockTower):
        self.tower = tower
        self.runs = 0
        self._first: list[Tensor] = []
        self._known: dict[tuple, tuple] = {}

    def view(self, dense_attention: torch.nn.Module) -> BlockTower:
        """The tower with another part for its last blocks."""
        view = copy.copy(self.tower)
        view._modules = dict(self.tower._modules, dense_attention=dense_attention)
        vars(view)['_block'] = self._block
        return view

    def forget(self) -> None:
        """The images are others from now on."""
        self._first, self._known = [], {}

    def _block(self, index: int, x: Tensor, **options) -> Tensor | tuple[Tensor, Tensor]:
        if index == 0:  # later inputs are remembered outputs, so that the object tells
            same = [seen for seen in self._first if seen.shape == x.shape and torch.equal(seen, x)]
            self._first += [] if same else [x]
            x = same[0] if same else x
        key = (index, id(x), *sorted(options.items()))
        if key not in self._known:
            self.runs += 1
            self._known[key] = (
                x,
                type(self.tower)._block(self.tower, index, x, **options),
            )  # with x, so that its id stays its own
        return self._known[key][1]
