"""The published sets of classification, by name."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset

from vlm_dense.classification.datasets.layouts import SETS, Layout, layout_of, sentence_of
from vlm_dense.classification.datasets.pickled_shots import find_images, read_pickled_shots
from vlm_dense.classification.few_shot import VALIDATION_SHOTS, draw_multi_label_shots, draw_shots
from vlm_dense.datasets.checks import absent_files
from vlm_dense.errors import ConfigError, DataError, first_of
from vlm_dense.registry import DATASETS, unknown_name


@DATASETS.register_module()
class ImageSetDataset(BaseDataset):
    """One of the sets that papers on CLIP report: the 11 of CoOp, ImageNet's variants, SoftCPT's Plant-6, ELEVATER's
    20, three more with several labels.

    Shots are drawn as in CoOp's code: one generator, first ``shots`` images of each class of the training list, classes
    in the order in which the list first shows them, then ``min(shots, 4)`` of each class of the validation list.
    Classes are chosen after that. ImageNet has no validation list: its validation images are drawn from the training
    images that were not drawn for training. See docs/classification_data.md on where this equals the official choice.

    A data info is ``dict(img_path, gt_label)``, or in multi-label sets ``dict(img_path, gt_labels, unknown_labels,
    num_classes)`` where the first two are lists of labels.

    Args:
        name: Of the set, as 'caltech101'; all of them are in ``vlm_dense/data/classification/sets.json``.
        data_root: The folder that has the sets' folders in it.
        split: 'train', 'val' or 'test'.
        shots: Number of training images of a class; default: all images. Does not change the test set. In multi-label
            sets see :func:`~vlm_dense.classification.few_shot.draw_multi_label_shots`.
        seed: Other seeds draw other images.
        few_shot: A pickle of CoOp's code, ``split_fewshot/shot_16-seed_1.pkl``: its images instead of drawn ones.
            Nothing in it is run. Not with ``shots``.
        classes: 'all', 'base' (the first half, rounded up), 'new' (the others) or names; 'seen' or 'unseen' of the
            open-vocabulary splits of coco2014 (48 and 17 classes) and nus-wide-tags (925 and 81), of which
            'seen+unseen' are both. Labels count the chosen
            classes, in label order, or in the order of the names. ``metainfo['classes']``, if given, takes its place.
        metainfo: As in mmengine; a ``taxonomy`` (parent -> names) goes here.
        **kwargs: As in :class:`mmengine.dataset.BaseDataset`: ``pipeline``, ``lazy_init``, ...

    Attributes:
        metainfo: ``classes``, ``class_indices`` (label of each class among all of the set; for variants of ImageNet,
            among those of ImageNet), ``template`` (CoOp's sentence for the set) and what was given.

    Raises:
        ConfigError: a name, split or class that does not exist; the nearest ones are named.
        DataError: files that are absent or cannot be right, a class without training images.
    """

    def __init__(
        self,
        name: str,
        data_root: str = 'data',
        split: str = 'train',
        shots: int | None = None,
        seed: int = 1,
        few_shot: str | None = None,
        classes: str | Sequence[str] = 'all',
        metainfo: dict | None = None,
        **kwargs: Any,
    ):
        self.name, self.split, self.shots, self.seed = name, split, shots, seed
        self.layout, self.few_shot = _layout(name, data_root), few_shot
        if few_shot is not None and (shots is not None or self.layout.multi_label):
            raise ConfigError(f'{name}: few_shot holds images that were drawn, of one label each; leave out shots.')
        if split not in ('train', 'val', 'test') or (split == 'train' and split not in self.layout.parts):
            raise ConfigError(unknown_name(split, f'splits of {name}', {*self.layout.parts, 'val'}))
        if (
            split == 'val'
            and few_shot is None
            and 'val' not in self.layout.parts
            and ('train' not in self.layout.parts or shots is None)
        ):
            raise ConfigError(
                f'{name} has no validation images. With shots they are drawn from the training images; without, take '
                'val_dataloader=None. Nothing should be chosen on test images.'
            )
        if shots is not None and shots < 1:
            raise ConfigError(f'{name}: shots must be at least 1, found {shots}.')
        metainfo = dict(metainfo or {})
        every = self.layout.classes()
        splits = self.layout.class_splits()
        self._chosen = choose_classes(every, metainfo.pop('classes', classes), name, splits)
        indices = self.layout.class_indices()
        metainfo = dict(
            classes=tuple(every[label] for label in self._chosen),
            class_indices=tuple(indices[label] for label in self._chosen),
            template=sentence_of(name),
            **metainfo,
        )
        super().__init__(metainfo=metainfo, data_root=data_root, **kwargs)

    @staticmethod
    def expected_files(dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads, for ``check_data``."""
        layout = _layout(dataset['name'], dataset.get('data_root', 'data'))
        return [(str(path), '', 'data_root') for path in layout.sources]

    def load_data_list(self) -> list[dict]:
        """Data infos of the chosen classes' images.

        Raises:
            DataError: see the class.
        """
        images = self._drawn()
        absent = absent_files([image['img_path'] for image in images])
        if absent:
            raise DataError(
                f'{self.name}: {len(absent)} of {len(images)} images of its {self.split} list are missing: '
                f'{first_of(absent, 3)}. Complete the images, or take these out '
                f'of {self.layout.sources[0]}.'
            )
        labels = {label: new for new, label in enumerate(self._chosen)}
        if self.layout.multi_label:
            for image in images:
                for key in ('gt_labels', 'unknown_labels'):
                    image[key] = [labels[label] for label in image.get(key, ()) if label in labels]
                image['num_classes'] = len(labels)
            return images
        images = [dict(image, gt_label=labels[image['gt_label']]) for image in images if image['gt_label'] in labels]
        if self.split == 'train':
            shown = {image['gt_label'] for image in images}
            empty = [name for label, name in enumerate(self.metainfo['classes']) if label not in shown]
            if empty:
                raise DataError(
                    f'{self.name}: {len(empty)} of {len(labels)} classes have no training image: '
                    f'{", ".join(empty[:5])}. Add images, or leave these classes out with classes=[...].'
                )
        return images

    def _drawn(self) -> list[dict]:
        if self.few_shot is not None and self.split != 'test':
            shots = read_pickled_shots(self.few_shot)
            if self.split not in shots:
                raise DataError(f'{self.few_shot} has no list {self.split!r} of few shots.')
            parts = [part for part in ('train', 'val') if part in self.layout.parts]
            images = [image for part in parts for image in self.layout.images(part)]
            return find_images(shots[self.split], images, self.few_shot)
        if self.shots is None or self.split == 'test':
            return self.layout.images(self.split)
        draw = random.Random(self.seed)
        train = self.layout.images('train')
        chosen = self._draw(train, self.shots, draw)
        if self.split == 'train':
            return chosen
        if 'val' in self.layout.parts:
            rest = self.layout.images('val')
        else:
            taken = {image['img_path'] for image in chosen}
            rest = [image for image in train if image['img_path'] not in taken]
        return self._draw(rest, min(self.shots, VALIDATION_SHOTS), draw)

    def _draw(self, images: list[dict], shots: int, draw: random.Random) -> list[dict]:
        key, choose = ('gt_labels', draw_multi_label_shots) if self.layout.multi_label else ('gt_label', draw_shots)
        chosen = choose([image[key] for image in images], shots, draw, self.layout.classes(), self.name)
        return [images[i] for i in chosen]


def choose_classes(
    every: Sequence[str], classes: str | Sequence[str], name: str, published: Mapping[str, Sequence[str]] | None = None
) -> list[int]:
    """Labels, among all classes of a set, of those that a config asks for.

    Args:
        every: All class names in label order.
        classes: 'all', 'base' (the first half, rounded up as in CoOp's code), 'new' or names.
        name: Of the set, for messages.
        published: Divisions of the classes that the set has, 'seen' and 'unseen', which may be joined by '+'.

    Raises:
        ConfigError: unknown names, names twice, or no class.
    """
    half = (len(every) + 1) // 2
    labels = list(range(len(every)))
    if isinstance(classes, str):
        splits = dict(all=labels, base=labels[:half], new=labels[half:])
        for split, names in (published or {}).items():
            splits[split] = [every.index(one) for one in names]
        if published:
            splits['+'.join(published)] = sorted(label for split in published for label in splits[split])
        if classes not in splits:
            raise ConfigError(unknown_name(classes, f'class splits of {name}', splits))
        chosen = splits[classes]
    else:
        for one in classes:
            if one not in every:
                raise ConfigError(unknown_name(one, f'classes of {name}', every))
        chosen = [every.index(one) for one in classes]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f'{name}: classes={classes!r} gives {len(chosen)} classes of {len(every)}; expected one or more, each once.'
        )
    return chosen


def _layout(name: str, data_root: str) -> Layout:
    if name not in SETS:
        raise ConfigError(unknown_name(name, 'data sets of vlm_dense', SETS))
    return layout_of(name, data_root)
