"""A few labelled images of each class."""

from __future__ import annotations

import logging
import random
from collections import defaultdict

from mmengine.logging import print_log
from mmengine.registry import DATASETS as ROOT_DATASETS

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS


@DATASETS.register_module()
class FewShotDataset:
    """K images of each class of another data set, chosen by a seed.

    As in CoOp's code: classes in the order in which the data set first shows them, for each
    ``random.sample(images, shots)`` of Python's generator. The images keep the order in which they were drawn.
    Everything but length and items is the wrapped data set's.

    Args:
        dataset: The data set to choose from. Labels are ``gt_label`` of its data infos; where they have none (drawn
            scenes), each sample is made once and ``gt_label`` of its ``data_samples`` is taken.
        shots: K. A class that has fewer images gives all, with a warning.
        seed: Other seeds choose other images.

    Raises:
        ConfigError: ``shots`` below 1.
        DataError: a class without images.
    """

    def __init__(self, dataset: dict, shots: int, seed: int = 1):
        if shots < 1:
            raise ConfigError(f'FewShotDataset: shots must be at least 1, found {shots}.')
        pool = ROOT_DATASETS.build(dataset)
        pool.full_init()
        groups: dict[int, list[int]] = defaultdict(list)
        for index in range(len(pool)):
            groups[_label(pool, index)].append(index)
        names = pool.metainfo['classes']
        empty = [name for label, name in enumerate(names) if label not in groups]
        if empty:
            raise DataError(
                f'FewShotDataset: {len(empty)} of {len(names)} classes have no image among the {len(pool)} of '
                f'{type(pool).__name__}: {", ".join(empty[:5])}. Add images, or leave these classes out.'
            )
        few = [f'{names[label]} ({len(images)})' for label, images in groups.items() if len(images) < shots]
        if few:
            print_log(
                f'FewShotDataset: {len(few)} classes have fewer than {shots} images and give all they have: '
                f'{", ".join(few[:5])}{", ..." if len(few) > 5 else ""}.',
                logger='current',
                level=logging.WARNING,
            )
        draw = random.Random(seed)
        chosen = [draw.sample(images, shots) if len(images) > shots else images for images in groups.values()]
        object.__setattr__(self, 'indices', [index for images in chosen for index in images])
        object.__setattr__(self, 'dataset', pool)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.dataset[self.indices[index]]

    def get_data_info(self, index: int) -> dict:
        """Information on the image that is ``index``-th of those chosen."""
        return self.dataset.get_data_info(self.indices[index])

    def __getattr__(self, name: str):
        if name in ('dataset', 'indices') or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.dataset, name, value)  # hooks change pipelines


def _label(dataset, index: int) -> int:
    label = dataset.get_data_info(index).get('gt_label')
    if label is None:
        sample = dataset[index]['data_samples']
        if 'gt_label' not in sample:
            raise DataError(
                f'FewShotDataset: {sample.get("img_path", f"image {index}")} has no gt_label. Drawn scenes have one '
                'if num_objects=(1, 1).'
            )
        label = sample.gt_label
    return int(label)
