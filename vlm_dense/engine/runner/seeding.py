"""Randomness as a function of the iteration, so that a resumed run repeats an uninterrupted one.

On the CPU the repeat is exact to the bit. On a GPU it is as exact as the kernels are: choose
``env_cfg.cudnn_benchmark=False`` and ``randomness.deterministic=True`` where equal bits are worth slower kernels.

Nothing random is kept in checkpoints. Instead every training sample is drawn, and every iteration computed, after
the generators were seeded from (seed, place in the run). It follows that the number of data workers changes nothing,
and that N processes augment the same global batch as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS as ROOT_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.runner import Runner
from torch.utils.data import Sampler

from vlm_dense.engine.explain import of_run
from vlm_dense.engine.generators import seed_generators
from vlm_dense.engine.registry import DATA_SAMPLERS
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS, HOOKS

_INDEX_BITS = 40


def _key(*place: int) -> int:
    """63 random-looking bits that depend on nothing but ``place``."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1) | 1


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Attach a seed to every index of another sampler; :class:`SeededDataset` removes it again.

    Yields one integer::

        seed << 80 | epoch << 40 | index

    The seed is a function of the run's seed, the epoch and the place in the stream of all processes together. The
    epoch is that of the loop; of an infinite sampler, how often the data were gone through before.

    Args:
        sampler: Config of the sampler that chooses indices.
        dataset: What it chooses from.
        seed: Seed of the run; mmengine gives it.

    Raises:
        DataError: the data set is empty.
    """

    def __init__(self, sampler: dict, dataset, seed: int | None = None):
        if len(dataset) == 0:
            raise DataError(f'The data set for training, {dataset}, is empty. Check its split, ann_file and filters.')
        self.sampler = ROOT_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.dataset = dataset
        self.seed = getattr(self.sampler, 'seed', None) or seed or 0
        self.rank, self.world_size = getattr(self.sampler, 'rank', 0), getattr(self.sampler, 'world_size', 1)
        self.epoch = 0
        self._start = 0

    def __iter__(self) -> Iterator[int]:
        for position, index in enumerate(self.sampler, self._start):
            place = position * self.world_size + self.rank
            epoch = self.epoch + (place // len(self.dataset) if isinstance(self.sampler, InfiniteSampler) else 0)
            yield (_key(self.seed, self.epoch, place) << _INDEX_BITS | epoch) << _INDEX_BITS | index

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch, as the wrapped sampler does."""
        self.epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        self.sampler.skip(num_samples)
        self._start = num_samples

    def __getattr__(self, name: str):
        if name == 'sampler':  # not yet set
            raise AttributeError(name)
        if name == 'skip' and hasattr(self.sampler, 'skip'):  # mmengine skips by it when it resumes
            return self._skip
        return getattr(self.sampler, name)


@DATASETS.register_module()
class SeededDataset:
    """A data set with random transforms that depend on the seed in the index, and on nothing else.

    A data set that has ``at_epoch(index, epoch)`` is asked for the sample of the epoch in the index, which data workers
    that live through several epochs could not know. Everything but ``__getitem__`` and ``get_data_info`` is the wrapped
    data set's.

    Args:
        dataset: Config of the data set, or the data set.
    """

    def __init__(self, dataset):
        object.__setattr__(self, 'dataset', ROOT_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset)

    def __getitem__(self, index: int):
        try:
            return self._sample(index)
        except KeyError as error:  # explained here: from a worker comes its text only
            told = of_run(error)
            if told is None:
                raise
            raise ConfigError(told) from error

    def _sample(self, index: int):
        (key, epoch), index = divmod(index >> _INDEX_BITS, 1 << _INDEX_BITS), index & (1 << _INDEX_BITS) - 1
        if not key:
            return self.dataset[index]
        seed_generators(key)
        return self.dataset.at_epoch(index, epoch) if hasattr(self.dataset, 'at_epoch') else self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        """Information on a sample, with or without seed in ``index``."""
        return self.dataset.get_data_info(index & (1 << _INDEX_BITS) - 1)

    def __getattr__(self, name: str):
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.dataset, name, value)  # hooks change pipelines

    def __getstate__(self):
        return self.dataset

    def __setstate__(self, dataset) -> None:
        object.__setattr__(self, 'dataset', dataset)

    def __repr__(self) -> str:
        return repr(self.dataset)


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Seed all generators from (seed, iteration, rank) before each training iteration: dropout, sampling of points."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed Python, numpy and torch on all devices."""
        key = _key(runner.seed, runner.iter, runner.rank)
        seed_generators(key)
        torch.manual_seed(key)


def seed_draws(cfg: Config) -> None:
    """Wrap sampler and data set of ``train_dataloader`` in a config, in place; once."""
    loader = cfg.get('train_dataloader')
    if not loader or not isinstance(loader.get('dataset'), dict) or not isinstance(loader.get('sampler'), dict):
        return
    if loader['dataset']['type'] != 'vlm_dense.SeededDataset':
        loader['dataset'] = dict(type='vlm_dense.SeededDataset', dataset=loader['dataset'])
        loader['sampler'] = dict(type='vlm_dense.SeededSampler', sampler=loader['sampler'])
