"""One stream of images, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import Sampler

from vlm_dense.engine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """All images in the first process, once and in their order, and none in others.

    For tests with predictions that depend on the images before, see
    :class:`~vlm_dense.contract.stream.StreamAdaptation`.

    Args:
        dataset: The images.
        shuffle: Draw the order, from ``seed`` alone.
        seed: mmengine gives that of the run.
    """

    def __init__(self, dataset: Sized, shuffle: bool = False, seed: int | None = None):
        rank, count = get_dist_info()
        self.order = list(range(len(dataset)))
        if shuffle:
            self.order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed or 0)).tolist()
        how = f'shuffled by the seed {seed or 0}' if shuffle else 'in the order of the data set'
        where = f' in the first of {count} processes' if count > 1 else ''
        print_log(f'StreamSampler: one stream of {len(self.order)} images, {how}{where}.', logger='current')
        if rank:
            self.order = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
