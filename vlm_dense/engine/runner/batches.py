"""Batches of a training on few images."""

from __future__ import annotations

from torch.utils.data import BatchSampler, Sampler

from vlm_dense.engine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class FullBatchSampler(BatchSampler):
    """Batches of one size, as CoOp's code trains: an epoch leaves out the images that do not fill the last batch.

    Fewer images than a batch holds are one batch. With one image of each of 47 classes and batches of 32 an epoch is
    one step, and not two.

    Args:
        sampler, batch_size: mmengine gives them.

    Examples:
        >>> [list(FullBatchSampler(range(count), 2)) for count in (1, 2, 3)]
        [[[0]], [[0, 1]], [[0, 1]]]
    """

    def __init__(self, sampler: Sampler, batch_size: int):
        super().__init__(sampler, batch_size, drop_last=len(sampler) >= batch_size)
