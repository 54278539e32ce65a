"""A few labelled images of each class."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mmengine.logging import print_log
from mmengine.registry import DATASETS as ROOT_DATASETS

from vlm_dense.errors import ConfigError, DataError, first_of
from vlm_dense.registry import DATASETS

VALIDATION_SHOTS = 4
"""CoOp's protocol validates on min(this, shots) images of a class."""


def draw_shots(labels: Iterable[int], shots: int, draw: random.Random, names: Sequence[str], where: str) -> list[int]:
    """Choose images as CoOp's code does: ``draw.sample`` for each class, in the order in which classes first appear.

    Args:
        labels: Of all images, in order.
        shots: Images of a class. A class that has fewer gives all, with a warning.
        draw: The generator; its state advances.
        names: Class names in label order, for messages.
        where: What is chosen from, for messages.

    Returns:
        Indices, class after class, in the order in which they were drawn.

    Raises:
        DataError: a class without images, or a label that is none.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[label].append(index)
    wrong = [label for label in groups if not 0 <= label < len(names)]
    if wrong:
        raise DataError(
            f'{where} has the label {wrong[0]}; expected 0 to {len(names) - 1} for {len(names)} classes. Fix the '
            'label, or name all classes.'
        )
    empty = [name for label, name in enumerate(names) if label not in groups]
    if empty:
        raise DataError(
            f'{len(empty)} of {len(names)} classes have no image among the {sum(map(len, groups.values()))} of '
            f'{where}: {", ".join(empty[:5])}. Add images, or leave these classes out.'
        )
    _tell_few({names[label]: len(images) for label, images in groups.items()}, shots, where)
    chosen = [draw.sample(images, shots) if len(images) >= shots else images for images in groups.values()]
    return [index for images in chosen for index in images]


def draw_multi_label_shots(
    labels: Iterable[Sequence[int]], shots: int, draw: random.Random, names: Sequence[str], where: str
) -> list[int]:
    """Choose images that show several classes: in a drawn order, each that shows a class with fewer than ``shots`` yet.

    Args:
        labels: Those of each image, in order.
        shots, draw, names, where: As of :func:`draw_shots`.

    Returns:
        Indices, in the order in which they were drawn. A class that is shown with others may have more images.
    """
    labels, counts, chosen = list(labels), Counter(), []
    for index in draw.sample(range(len(labels)), len(labels)):
        if any(counts[label] < shots for label in labels[index]):
            chosen.append(index)
            counts.update(labels[index])
    _tell_few({name: counts[label] for label, name in enumerate(names)}, shots, where)
    return chosen


def _tell_few(counts: Mapping[str, int], shots: int, where: str) -> None:
    few = [f'{name} ({count})' for name, count in counts.items() if count < shots]
    if few:
        print_log(
            f'{where}: {len(few)} classes have fewer than {shots} images and give all they have: {first_of(few)}.',
            logger='current',
            level=logging.WARNING,
        )


class ChosenImages:
    """Base of wrappers that show some images of another data set.

    Everything but length and items is the wrapped data set's.

    Args:
        dataset: The data set, initialised.
        indices: Of the images that are shown, in order.
    """

    def __init__(self, dataset, indices: Sequence[int]):
        self._own(dataset=dataset, indices=list(indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.dataset[self.indices[index]]

    def get_data_info(self, index: int) -> dict:
        """Information on the image that is ``index``-th of those chosen."""
        return self.dataset.get_data_info(self.indices[index])

    def _own(self, **attributes) -> None:
        """Set attributes of the wrapper itself."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str):
        if name in ('dataset', 'indices') or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.dataset, name, value)  # hooks change pipelines


@DATASETS.register_module()
class FewShotDataset(ChosenImages):
    """K images of each class of another data set, chosen by a seed, see :func:`draw_shots`.

    The sets of CoOp draw by themselves, see :class:`~vlm_dense.classification.ImageSetDataset`.

    Args:
        dataset: The data set to choose from. Labels are ``gt_label`` of its data infos; where they have none (drawn
            scenes), each sample is made once and ``gt_label`` of its ``data_samples`` is taken.
        shots: K.
        seed: Other seeds choose other images.
        at_most: Take min(``at_most``, ``shots``): 4 for validation.

    Raises:
        ConfigError: ``shots`` below 1.
        DataError: a class without images.
    """

    def __init__(self, dataset: dict, shots: int, seed: int = 1, at_most: int | None = None):
        shots = shots if at_most is None else min(shots, at_most)
        if shots < 1:
            raise ConfigError(f'FewShotDataset: shots must be at least 1, found {shots}.')
        pool = ROOT_DATASETS.build(dataset)
        pool.full_init()
        labels = [_label(pool, index) for index in range(len(pool))]
        where = f'FewShotDataset of {type(pool).__name__}'
        super().__init__(pool, draw_shots(labels, shots, random.Random(seed), pool.metainfo['classes'], where))


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
