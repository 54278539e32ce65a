"""Data of the user's own: a folder of images and masks, and a folder of images for each class.

A COCO file is read by :class:`vlm_dense.detection.CocoFileDataset`. All three take the folders ``train`` and ``val``
where they are, and otherwise put every fifth image into the validation set; docs/own_data.md has a page on them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from mmengine.dataset import BaseDataset
from mmseg.datasets.basesegdataset import BaseSegDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from vlm_dense.colours import class_colours
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.registry import DATASETS

VALIDATION_SHARE = 5
"""Share of validation images, each fifth one in order of the names, if there are no folders for it."""


def part_of(items: Sequence, split: str) -> list:
    """The items of a split without split files: every fifth is for validation, the others train.

    Raises:
        ConfigError: a split that is neither 'train' nor 'val'.
    """
    check_split(split)
    return [item for i, item in enumerate(items) if (i % VALIDATION_SHARE == VALIDATION_SHARE - 1) == (split == 'val')]


def check_split(split: str) -> None:
    """Refuse what is neither 'train' nor 'val'."""
    if split not in ('train', 'val'):
        raise ConfigError(f"split must be 'train' or 'val', found {split!r}.")


def images_below(folder: str) -> list[str]:
    """Paths of the image files in a folder and in those inside it, sorted; hidden ones are left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        images = (name for name in names if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith('.'))
        found += [os.path.join(place, name) for name in images]
    return sorted(found)


@DATASETS.register_module()
class MaskFolderDataset(BaseSegDataset):
    """Images in ``DATA_ROOT/images``, and for each one a mask of the same name in ``DATA_ROOT/annotations``.

    A mask is a PNG of one channel (greyscale or palette) with class indices as values, 0 for the first name; 255
    marks pixels that count nowhere. Images may be of any format that torchvision's folders take. If ``images`` has the
    folders ``train`` and ``val``, so must ``annotations``; otherwise every fifth image is for validation.

    Args:
        data_root: The folder with ``images`` and ``annotations``.
        split: 'train' or 'val'.
        metainfo: ``classes``, the names in label order; ``palette``, if wanted.
        **kwargs: As in :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        ClassNamesError: no class names.
        DataError: no image in the folder, or two that share a mask.

    Examples:
        >>> from vlm_dense.datasets import MaskFolderDataset
        >>> data = MaskFolderDataset('data/own', metainfo=dict(classes=['road', 'car']), lazy_init=True)
        >>> data.metainfo['classes']
        ['road', 'car']
    """

    any_case = True
    """Whether files are found whatever the case of their suffix."""
    label_remedy = 'Fix the mask, or name the classes of all labels (--classes), of which 0 is the first.'
    """End of the message on a label that is none."""

    def __init__(self, data_root: str, split: str = 'train', metainfo: dict | None = None, **kwargs):
        check_split(split)
        if not (metainfo or {}).get('classes'):
            raise ClassNamesError(
                'MaskFolderDataset has no class names, and masks hold numbers only. Give the names in the order of the '
                'numbers: --classes names.txt (a name a line) or --classes NAME NAME ..., in a config metainfo='
                'dict(classes=[...]) of the data sets.'
            )
        self.split = split
        super().__init__(
            data_root=data_root,
            metainfo=dict(metainfo, palette=metainfo.get('palette') or _palette(metainfo['classes'])),
            data_prefix=dict(img_path='images', seg_map_path='annotations'),
            seg_map_suffix='.png',
            reduce_zero_label=False,
            **kwargs,
        )

    @staticmethod
    def expected_files(dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads."""
        root = dataset.get('data_root') or ''
        return [
            (os.path.join(root, 'images'), '*', 'data_root'),
            (os.path.join(root, 'annotations'), '*.png', 'data_root'),
        ]

    def load_data_list(self) -> list[dict]:
        """One dict an image of the split, in the order of their paths."""
        images, masks = self.data_prefix['img_path'], self.data_prefix['seg_map_path']
        parted = [name for name in ('train', 'val') if os.path.isdir(os.path.join(images, name))]
        if len(parted) == 1:
            raise DataError(f'{images} has the folder {parted[0]} only. Give it both, train and val, or none of them.')
        paths = images_below(os.path.join(images, self.split) if parted else images)
        owner: dict[str, str] = {}
        for path in paths:
            first = owner.setdefault(os.path.splitext(path)[0], path)
            if first != path:
                raise DataError(
                    f'{first} and {os.path.basename(path)} would share one mask, the one of their name. '
                    'Rename one of them and give it a mask of its own, or take it away.'
                )
        if not parted:
            paths = part_of(paths, self.split)
        if not paths:
            raise DataError(
                f'No image for the {self.split} set in {images}: expected files ending in {", ".join(IMG_EXTENSIONS)}.'
            )
        return [
            dict(
                img_path=path,
                seg_map_path=os.path.join(masks, os.path.splitext(os.path.relpath(path, images))[0] + '.png'),
                label_map=self.label_map,
                reduce_zero_label=False,
                seg_fields=[],
            )
            for path in paths
        ]


def _palette(classes: Sequence[str] | str) -> list[tuple[int, int, int]] | None:
    return None if isinstance(classes, str) else class_colours(classes)  # a file of names, which mmengine reads


@DATASETS.register_module()
class ClassFolderDataset(BaseDataset):
    """A folder of images for each class, ``DATA_ROOT/train/<class>`` and ``DATA_ROOT/val/<class>``.

    Without these two, the class folders stand in DATA_ROOT itself, and every fifth image of each class is for
    validation. Names of classes are those of the folders with a space for each underscore, in sorted order.

    Args:
        data_root: The folder.
        split: 'train' or 'val'.
        metainfo: ``classes``, if only some are wanted or in another order.
        **kwargs: As in :class:`mmengine.dataset.BaseDataset`.

    Raises:
        ClassNamesError: a name without folder.
        DataError: no folders, or one without images.
    """

    def __init__(self, data_root: str, split: str = 'train', metainfo: dict | None = None, **kwargs):
        check_split(split)
        self.split = split
        parts = [os.path.join(data_root, name) for name in ('train', 'val')]
        self._parted = all(map(os.path.isdir, parts))
        self._place = parts[split == 'val'] if self._parted else data_root
        alone = [part for part in parts if os.path.isdir(part)]
        if len(alone) == 1:
            raise DataError(
                f'{alone[0]} stands without a folder {"val" if alone[0] == parts[0] else "train"} beside it. Add that '
                f'one, or take the folder of the classes itself: --data-root {alone[0]}.'
            )
        folders = _class_folders(parts[0] if self._parted else data_root)
        only = sorted(set(_class_folders(parts[1])) - set(folders)) if self._parted and not metainfo else []
        if only:
            raise ClassNamesError(
                f'{parts[1]} has {len(only)} classes that {parts[0]} has not, as {only[0]!r}: they would be left out. '
                'Add images to train on, or take their folders away.'
            )
        classes = list((metainfo or {}).get('classes') or folders)
        for name in classes:
            if name not in folders:
                near = difflib.get_close_matches(name, folders, n=3) or list(folders)[:10]
                raise ClassNamesError(
                    f'{data_root} has no folder of the class {name!r}; there are {", ".join(near)}. Name folders and '
                    'classes alike (underscores stand for spaces), or leave the names out to take all folders.'
                )
        if len(classes) < 2:
            raise ClassNamesError(
                f'{data_root} has one class, {classes[0]!r}, and each image would be found to show it. Expected two '
                'folders at least, or names of two with --classes.'
            )
        self._folders = [folders[name] for name in classes]
        super().__init__(data_root=data_root, metainfo=dict(metainfo or {}, classes=classes), **kwargs)

    @staticmethod
    def expected_files(dataset: dict) -> list[tuple[str, str, str]]:
        """(path, what lies there, config key) of what a config of this data set reads."""
        return [(dataset.get('data_root') or '', '<class>/*', 'data_root')]

    def load_data_list(self) -> list[dict]:
        """One dict an image: ``img_path`` and ``gt_label``."""
        infos = []
        for label, folder in enumerate(self._folders):
            place = os.path.join(self._place, folder)
            paths = images_below(place)
            paths = paths if self._parted else part_of(paths, self.split)
            if not paths:
                raise DataError(
                    f'No image for the {self.split} set in {place}. Add images (without folders train and val, five at '
                    'least, of which one is for validation), or take the folder away.'
                )
            infos += [dict(img_path=path, gt_label=label) for path in paths]
        return infos


def _class_folders(root: str) -> dict[str, str]:
    """Name of a class -> its folder."""
    if not os.path.isdir(root):
        raise DataError(f'There is no folder {os.path.abspath(root)}. Say where the data are with --data-root DIR.')
    found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith('.'))
    if not found:
        raise DataError(f'{root} has no folders; expected a folder of images for each class.')
    names: dict[str, str] = {}
    for folder in found:
        other = names.setdefault(folder.replace('_', ' '), folder)
        if other != folder:
            raise DataError(
                f'{root} has the folders {other!r} and {folder!r}, which are one class: underscores stand for spaces. '
                'Put their images into one of them, or name one otherwise.'
            )
    return names
