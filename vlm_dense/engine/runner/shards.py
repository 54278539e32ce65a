"""The order in which images of shards are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import islice

import numpy as np
from mmengine.dataset import InfiniteSampler

from vlm_dense.engine.registry import DATA_SAMPLERS
from vlm_dense.errors import ConfigError


@DATA_SAMPLERS.register_module()
class ShardSampler(InfiniteSampler):
    """Shards in random order, their images through a buffer from which one is drawn at random: webdataset's shuffle.

    Images that follow each other come from few shards, so that disks and networks read them nearly in their order. The
    order follows from the seed alone: a run that is resumed goes on where it was, and processes have shares of one
    stream.

    Args:
        dataset: With ``shard_sizes``, as :class:`~vlm_dense.datasets.WebDataset`.
        buffer: Images that wait in the buffer; 1 keeps the order inside a shard.
        length: Images of an epoch, for loops by epochs; the next epoch goes on in the stream. Default: no end, for
            loops by iterations.
        seed: mmengine gives that of the run.

    Raises:
        ConfigError: a data set without shards, or numbers below 1.
    """

    def __init__(self, dataset: Sized, buffer: int = 1000, length: int | None = None, seed: int | None = None):
        len(dataset)  # a data set that is not initialised has no sizes yet
        sizes = getattr(dataset, 'shard_sizes', None)
        if not sizes or buffer < 1 or (length is not None and length < 1):
            raise ConfigError(
                f'ShardSampler takes a data set of shards, as vlm_dense.WebDataset, a buffer and a length of at least '
                f'1; found {type(dataset).__name__}, {buffer} and {length}.'
            )
        self.starts = np.cumsum([0, *sizes])
        self.buffer, self.length = buffer, length
        super().__init__(dataset, seed=seed)

    def _infinite_indices(self) -> Iterator[int]:
        generator = np.random.default_rng(self.seed)
        while True:
            waiting: list[int] = []
            for shard in generator.permutation(len(self.starts) - 1):
                for index in range(self.starts[shard], self.starts[shard + 1]):
                    if len(waiting) < self.buffer:
                        waiting.append(index)
                        continue
                    place = int(generator.integers(self.buffer))
                    yield waiting[place]
                    waiting[place] = index
            yield from (waiting[place] for place in generator.permutation(len(waiting)))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices) if self.length is None else islice(self.indices, len(self))

    def __len__(self) -> int:
        return self.size if self.length is None else -(-self.length // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch where the one before ended."""
        if self.length is not None:
            self.skip(epoch * len(self))
