"""File layouts of the data sets: one class for each kind of folder, a table of sets in ``data/classification``.

A layout knows its classes, their parts ('train', 'val', 'test') and the images of each part. It reads what it is asked
for and keeps nothing. An image is ``dict(img_path, gt_label)``, or ``dict(img_path, gt_labels, unknown_labels)`` in
multi-label sets, both lists of labels.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from torchvision.datasets import VOCDetection
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from vlm_dense.errors import DataError
from vlm_dense.vocabulary.templates import read_templates

SETS: dict[str, dict] = json.loads(
    (Path(__file__).parents[2] / 'data' / 'classification' / 'sets.json').read_text(encoding='utf-8')
)
"""Name of a set -> its layout and where its files are below the data root, and ``template``, see
:func:`sentence_of`."""


class Layout:
    """Base of all layouts.

    Attributes:
        parts: Those that the publisher gives.
        multi_label: Whether an image may show several classes.
        sources: Files and folders that are read.

    Raises:
        DataError: files that are absent or cannot be right; names them.
    """

    parts = ('train', 'val', 'test')
    multi_label = False

    def class_splits(self) -> dict[str, list[str]]:
        """Published divisions of the classes, by name: those seen in training and those unseen."""
        return {}

    def __init__(self, *sources: Path):
        self.sources = sources

    def classes(self) -> list[str]:
        """Class names in label order, ``_`` turned into a space."""
        raise NotImplementedError

    def class_indices(self) -> list[int]:
        """Place of each class in the list that its names come from: for parts of ImageNet, the label in ImageNet."""
        return list(range(len(self.classes())))

    def images(self, part: str) -> list[dict]:
        """The images of a part, in the publisher's order."""
        raise NotImplementedError


def sentence_of(name: str) -> str:
    """CoOp's sentence for a set; of a set that it has not, that for a set of the same kind, or ImageNet's.

    Raises:
        ConfigError: there is none.
    """
    return read_templates(SETS.get(name, {}).get('template', name))[0]


def is_multi_label(name: str) -> bool:
    """Whether an image of one of :data:`SETS` may show several classes."""
    return SETS[name].get('multi_label', _LAYOUTS[SETS[name]['layout']].multi_label)


def layout_of(name: str, root: str | os.PathLike) -> Layout:
    """Layout of one of :data:`SETS` below a data root."""
    entry = {key: value for key, value in SETS[name].items() if key != 'template'}
    return _LAYOUTS[entry.pop('layout')](Path(root), **entry)


# --- one label an image ---------------------------------------------------------------------------------------


class SplitFile(Layout):
    """The CoOp group's ``split_zhou_*.json``: lists of [path, label, class name] for train, val and test."""

    expected = 'the lists train, val and test of [path, label, class name]'

    def __init__(self, root: Path, split: str, images: str):
        self.split, self.folder = root / split, root / images
        super().__init__(self.split, self.folder)

    def _read(self) -> dict[str, list]:
        try:
            content = json.loads(_read(self.split))
            return {part: [self._entry(content, *entry) for entry in content[part]] for part in self.parts}
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f'{self.split} is no split file: expected an object with {self.expected}; found '
                f'{type(error).__name__}: {error}. Download it again.'
            ) from error

    def _entry(self, content: dict, path: str, label: int, name: str) -> tuple[str, int, str]:
        """(path, label, class name) of an entry of the file."""
        return path, int(label), name

    def classes(self) -> list[str]:
        names: dict[int, str] = {}
        for path, label, name in (entry for part in self._read().values() for entry in part):
            if names.setdefault(label, name) != name:
                raise DataError(
                    f'{self.split} calls class {label} both {names[label]!r} and {name!r} (at {path}). Fix the file, '
                    'or download it again.'
                )
        if not names:
            raise DataError(f'{self.split} lists no image. Download it again.')
        wrong = sorted(set(names) ^ set(range(len(names))))
        if wrong:
            raise DataError(
                f'{self.split} names {len(names)} classes, so labels must be 0 to {len(names) - 1}; wrong or without '
                f'image: {", ".join(map(str, wrong[:5]))}. Fix the labels, or download the file again.'
            )
        return [_clean(names[label]) for label in range(len(names))]

    def images(self, part: str) -> list[dict]:
        entries = self._read()[part]
        if not entries:
            raise DataError(f'{self.split} has an empty list {part!r}. Download it again.')
        return [dict(img_path=str(self.folder / path), gt_label=label) for path, label, _ in entries]


class TaskSplitFile(SplitFile):
    """SoftCPT's ``split_dk_*.json`` of a set with one task: [path, [label], [task]], names in ``meta.taskid2cname``.

    Its code writes the file at the first run, half of each class for training and a fifth for validation; the release
    has none.
    """

    expected = 'the lists train, val and test of [path, [label], [task]] and the class names in meta.taskid2cname'

    def _entry(self, content: dict, path: str, label: list[int], task: list[int]) -> tuple[str, int, str]:
        (label,), (task,) = label, task
        return path, int(label), content['meta']['taskid2cname'][task][label]


class AircraftLists(Layout):
    """FGVC-Aircraft: ``variants.txt`` and ``images_variant_{train,val,test}.txt`` of lines 'image class name'."""

    def __init__(self, root: Path, folder: str):
        self.folder = root / folder
        lists = [self.folder / f'images_variant_{part}.txt' for part in self.parts]
        super().__init__(self.folder / 'variants.txt', *lists, self.folder / 'images')

    def classes(self) -> list[str]:
        return [_clean(name) for name in _lines(self.folder / 'variants.txt')]

    def images(self, part: str) -> list[dict]:
        labels = {name: label for label, name in enumerate(_lines(self.folder / 'variants.txt'))}
        listed = self.folder / f'images_variant_{part}.txt'
        found = []
        for line in _lines(listed):
            image, _, name = line.partition(' ')
            if name not in labels:
                raise DataError(f'{listed} has the class {name!r}, which variants.txt has not. Download both again.')
            found.append(dict(img_path=str(self.folder / 'images' / f'{image}.jpg'), gt_label=labels[name]))
        return found


class ClassFolders(Layout):
    """ImageNet and its variants: a folder of images for each class, named by its WordNet id.

    Labels count the folders in sorted order. Names come from the CoOp group's ``classnames.txt``, lines 'id name', of
    the set or else of ImageNet.

    Args:
        names, train, test: Places.
        numbered: Folders are called 0, 1, ..., the place of the class in the list of names (ImageNet-V2).
        whole: Every name of the list has a folder; a missing one is an error.
    """

    def __init__(
        self,
        root: Path,
        names: str,
        test: str,
        train: str | None = None,
        numbered: bool = False,
        whole: bool = False,
    ):
        own, imagenet = root / names, root / SETS['imagenet']['names']
        self.names = own if own.is_file() or not imagenet.is_file() else imagenet
        self.folders = dict(test=root / test) | (dict(train=root / train) if train else {})
        self.parts = tuple(self.folders)
        self.numbered, self.whole = numbered, whole
        super().__init__(self.names, *self.folders.values())

    def _named(self) -> dict[str, tuple[int, str]]:
        """Folder -> (place in the list of names, name)."""
        entries = [line.split(' ', 1) for line in _lines(self.names)]
        bare = next((entry for entry in entries if len(entry) != 2), None)
        if bare:
            raise DataError(f'{self.names} has the line {bare[0]!r}; expected a folder, a space and a class name.')
        return {str(i) if self.numbered else entry[0]: (i, entry[1]) for i, entry in enumerate(entries)}

    def _classes(self) -> list[tuple[str, int, str]]:
        """(folder, place, name) of each class."""
        named, place = self._named(), self.folders['test']
        if not place.is_dir():
            raise DataError(f'There is no folder {place}. Say where the data are with data_root.')
        found = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith('.'))
        bare = [folder for folder in found if folder not in named]
        if bare or not found:
            raise DataError(
                f'{place} has {len(found)} folders of classes, {len(bare)} of them without name in {self.names}: '
                f'{", ".join(bare[:3])}. Take the classnames.txt of ImageNet, 1000 lines.'
            )
        absent = [folder for folder in named if folder not in set(found)]
        if self.whole and absent:
            told = ', '.join(f'{folder} ({named[folder][1]})' for folder in absent[:5])
            raise DataError(
                f'{place} lacks {len(absent)} of the {len(named)} classes of {self.names}: {told}'
                f'{", ..." if len(absent) > 5 else ""}. Labels would count fewer classes. Complete the images, or take '
                'these lines out of the list.'
            )
        if self.numbered:
            found.sort(key=int)
        return [(folder, *named[folder]) for folder in found]

    def classes(self) -> list[str]:
        return [_clean(name) for *_, name in self._classes()]

    def class_indices(self) -> list[int]:
        return [place for _, place, _ in self._classes()]

    def images(self, part: str) -> list[dict]:
        labels = {folder: label for label, (folder, *_) in enumerate(self._classes())}
        try:
            found = make_dataset(self.folders[part], labels, IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise DataError(f'{self.folders[part]}: {error} Add images, or take the empty folders away.') from error
        return [dict(img_path=path, gt_label=label) for path, label in found]


# --- several labels an image ----------------------------------------------------------------------------------


class CocoBoxes(Layout):
    """COCO: an image shows a class if a box of ``instances_*.json`` does; images without boxes are left out."""

    parts = ('train', 'test')
    multi_label = True

    def __init__(
        self, root: Path, train: list[str], test: list[str], classes: list[str], seen: list[str], unseen: list[str]
    ):
        self._splits = dict(seen=seen, unseen=unseen)
        self.places = dict(train=[root / place for place in train], test=[root / place for place in test])
        self._names = classes
        super().__init__(*self.places['train'], *self.places['test'])

    def classes(self) -> list[str]:
        return list(self._names)

    def class_splits(self) -> dict[str, list[str]]:
        return self._splits

    def images(self, part: str) -> list[dict]:
        boxes, folder = self.places[part]
        try:
            return self._shown(json.loads(_read(boxes)), boxes, folder)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f'{boxes} cannot be read as boxes of COCO ({type(error).__name__}: {error}). Expected JSON with '
                'images, annotations and categories; download it again.'
            ) from error

    def _shown(self, content: dict, boxes: Path, folder: Path) -> list[dict]:
        categories = sorted(content['categories'], key=lambda category: category['id'])
        if [category['name'] for category in categories] != self._names:
            raise DataError(f'{boxes} has {len(categories)} categories that are not the 80 of COCO. Download it again.')
        labels = {category['id']: label for label, category in enumerate(categories)}
        files = {image['id']: image['file_name'] for image in content['images']}
        shown: dict[int, set[int]] = {}
        for box in content['annotations']:
            for key, known in (('category_id', labels), ('image_id', files)):
                if box[key] not in known:
                    raise DataError(
                        f'{boxes}: annotation {box.get("id")} has {key} {box[key]}, which it does not list.'
                    )
            shown.setdefault(box['image_id'], set()).add(labels[box['category_id']])
        return [dict(img_path=str(folder / files[i]), gt_labels=sorted(shown[i])) for i in files if i in shown]


class VocObjects(Layout):
    """PASCAL VOC 2007, trainval and test. A class that only difficult objects show is unknown, as in the devkit."""

    parts = ('train', 'test')
    multi_label = True

    def __init__(self, root: Path, folder: str, classes: list[str]):
        self.root, self.folder, self._names = root, root / folder, classes
        lists = [self.folder / 'ImageSets' / 'Main' / f'{part}.txt' for part in ('trainval', 'test')]
        super().__init__(*lists, self.folder / 'Annotations', self.folder / 'JPEGImages')

    def classes(self) -> list[str]:
        return list(self._names)

    def images(self, part: str) -> list[dict]:
        labels = {name.replace(' ', ''): label for label, name in enumerate(self._names)}
        try:
            voc = VOCDetection(str(self.root), '2007', 'trainval' if part == 'train' else 'test')
        except (RuntimeError, FileNotFoundError) as error:
            raise DataError(f'VOC 2007 is not complete in {self.folder}: {error}') from error
        return [
            dict(img_path=image, **_voc_labels(objects, labels))
            for image, objects in zip(voc.images, voc.annotations, strict=True)
        ]


def _voc_labels(path: str, labels: dict[str, int]) -> dict[str, list[int]]:
    from xml.etree import ElementTree

    try:
        tree = ElementTree.fromstring(_read(Path(path)))
    except ElementTree.ParseError as error:
        raise DataError(f'{path} is no XML: {error}. Replace it, or take it out of the lists of images.') from error
    sure, difficult = set(), set()
    for found in tree.iter('object'):
        name = found.findtext('name')
        if name not in labels:
            raise DataError(f'{path} has an object {name!r}, which is none of the 20 classes of VOC.')
        (difficult if found.findtext('difficult') == '1' else sure).add(labels[name])
    return dict(gt_labels=sorted(sure), unknown_labels=sorted(difficult - sure))


class NusWideLists(Layout):
    """NUS-WIDE, 81 concepts: ``ConceptsList``, ``ImageList`` and ``Groundtruth/TrainTestLabels`` of the publisher."""

    parts = ('train', 'test')
    multi_label = True

    def __init__(self, root: Path, folder: str, images: str):
        self.folder, self.image_folder = root / folder, root / images
        self.labels = self.folder / 'Groundtruth' / 'TrainTestLabels'
        self.concepts = self.folder / 'ConceptsList' / 'Concepts81.txt'
        super().__init__(self.concepts, self.folder / 'ImageList', self.labels, self.image_folder)

    def classes(self) -> list[str]:
        return [_clean(name) for name in _lines(self.concepts)]

    def images(self, part: str) -> list[dict]:
        listed = self.folder / 'ImageList' / f'{part.capitalize()}Imagelist.txt'
        paths = [self.image_folder.joinpath(*line.split('\\')) for line in _lines(listed)]
        shown: list[list[int]] = [[] for _ in paths]
        for label, name in enumerate(_lines(self.concepts)):
            source = self.labels / f'Labels_{name}_{part.capitalize()}.txt'
            marks = _lines(source)
            if len(marks) != len(paths) or not set(marks) <= {'0', '1'}:
                raise DataError(f'{source} has {len(marks)} lines; expected {len(paths)} of 0 or 1, as {listed} has.')
            for i, mark in enumerate(marks):
                if mark == '1':
                    shown[i].append(label)
        return [dict(img_path=str(path), gt_labels=labels) for path, labels in zip(paths, shown, strict=True)]


class NusWideTags(NusWideLists):
    """NUS-WIDE with the tags of its users: of the 1000, those that are no concept (925) are seen, 81 concepts unseen.

    ``NUS_WID_Tags`` of the publisher has ``TagList1k.txt``, ``Train_Tags1k.dat`` and ``Test_Tags1k.dat``.
    """

    def __init__(self, root: Path, folder: str, images: str):
        super().__init__(root, folder, images)
        self.tags = self.folder / 'NUS_WID_Tags'
        self.sources = (*self.sources, self.tags)

    def _seen(self) -> dict[int, str]:
        """Column -> name of the tags that are no concept."""
        concepts = set(super().classes())
        tags = [_clean(name) for name in _lines(self.tags / 'TagList1k.txt')]
        return {column: name for column, name in enumerate(tags) if name not in concepts}

    def class_splits(self) -> dict[str, list[str]]:
        return dict(seen=list(self._seen().values()), unseen=super().classes())

    def classes(self) -> list[str]:
        return [*self._seen().values(), *super().classes()]

    def images(self, part: str) -> list[dict]:
        found = super().images(part)
        source = self.tags / f'{part.capitalize()}_Tags1k.dat'
        rows = [line.split() for line in _lines(source)]
        columns, count = list(self._seen()), len(_lines(self.tags / 'TagList1k.txt'))
        if len(rows) != len(found) or any(len(row) != count or not set(row) <= {'0', '1'} for row in rows):
            raise DataError(f'{source} must have {len(found)} lines of {count} numbers, 0 or 1, one for each image.')
        for image, row in zip(found, rows, strict=True):
            tagged = [label for label, column in enumerate(columns) if row[column] == '1']
            image['gt_labels'] = [*tagged, *(label + len(columns) for label in image['gt_labels'])]
        return found


# --- ELEVATER -------------------------------------------------------------------------------------------------


class ElevaterLists(Layout):
    """A set of ELEVATER, as its toolkit downloads it: lists of images that lie in zip files.

    A list is a text file of lines 'train.zip@1.jpg 3', labels of several classes joined by commas, or COCO's JSON. The
    zip files must be unpacked, each into a folder of its name. Class names are the lines of ``classnames.txt``, if
    there is one, else those of the publisher: MVLPT's code has lists of its own.

    Args:
        folder: Of the set.
        count: Number of classes.
        parts: Part -> list.
        names: The publisher's class names; none where the lists are COCO's, which have them.
        multi_label: See :class:`Layout`.
    """

    def __init__(
        self,
        root: Path,
        folder: str,
        count: int,
        parts: dict[str, str],
        names: str | None = None,
        multi_label: bool = False,
    ):
        self.folder, self.count, self.multi_label = root / folder, count, multi_label
        self.lists = {part: self.folder / place for part, place in parts.items()}
        self.parts = tuple(parts)
        own = self.folder / 'classnames.txt'
        self.names = own if own.is_file() else names and self.folder / names
        super().__init__(*self.lists.values(), *([self.names] if self.names else []))

    def classes(self) -> list[str]:
        if source := self.names:
            found = _lines(source)
        else:
            source = self.lists['test']
            found = [category['name'] for category in self._categories(self._json(source), source)]
        if len(found) != self.count:
            raise DataError(
                f'{source} names {len(found)} classes, the set has {self.count}. Write their names, one a line in the '
                f'order of the labels, into {self.folder / "classnames.txt"}.'
            )
        return [_clean(name) for name in found]

    def images(self, part: str) -> list[dict]:
        source = self.lists[part]
        read = self._of_json if source.suffix == '.json' else self._of_lines
        found = []
        for place, labels in read(source):
            if not labels or not all(0 <= label < self.count for label in labels):
                raise DataError(f'{source}: {place} has the labels {labels}; expected 0 to {self.count - 1}.')
            if len(labels) > 1 and not self.multi_label:
                raise DataError(f'{source}: {place} has {len(labels)} labels; expected one. Download it again.')
            label = dict(gt_labels=sorted(labels)) if self.multi_label else dict(gt_label=labels[0])
            found.append(dict(img_path=str(self._path(place)), **label))
        return found

    def _path(self, place: str) -> Path:
        archive, _, inside = place.rpartition('@')
        folder = self.folder / archive.removesuffix('.zip') if archive else self.folder
        if archive and not folder.is_dir():
            raise DataError(f'There is no folder {folder}. Unpack {self.folder / archive} into it.')
        return folder / inside

    def _of_lines(self, source: Path) -> list[tuple[str, list[int]]]:
        try:
            return [
                (place, [int(label) for label in labels.split(',')])
                for place, _, labels in (line.rpartition(' ') for line in _lines(source))
            ]
        except ValueError as error:
            raise DataError(
                f"{source}: expected lines 'train.zip@1.jpg 3', found {error}. Download it again."
            ) from error

    def _of_json(self, source: Path) -> list[tuple[str, list[int]]]:
        content = self._json(source)
        labels = {category['id']: label for label, category in enumerate(self._categories(content, source))}
        shown: dict[int, set[int]] = {}
        try:
            for each in content['annotations']:
                shown.setdefault(each['image_id'], set()).add(labels[each['category_id']])
            return [
                ('@'.join(filter(None, (image.get('zip_file'), image['file_name']))), sorted(shown[image['id']]))
                for image in content['images']
            ]
        except (LookupError, TypeError) as error:
            raise DataError(
                f'{source} has an image without label, or a label that it does not list: {error}. Download it again.'
            ) from error

    def _json(self, source: Path) -> dict:
        try:
            return json.loads(_read(source))
        except ValueError as error:
            raise DataError(f'{source} is no JSON: {error}. Download it again.') from error

    def _categories(self, content: dict, source: Path) -> list[dict]:
        try:
            return sorted(content['categories'], key=lambda category: category['id'])
        except (LookupError, TypeError) as error:
            raise DataError(f'{source} has no list of categories as COCO has: {error}. Download it again.') from error


_LAYOUTS = {
    'split': SplitFile,
    'task-split': TaskSplitFile,
    'elevater': ElevaterLists,
    'aircraft': AircraftLists,
    'folders': ClassFolders,
    'coco': CocoBoxes,
    'voc': VocObjects,
    'nus-wide': NusWideLists,
    'nus-wide-tags': NusWideTags,
}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except FileNotFoundError as error:
        raise DataError(f'There is no file {path}. Say where the data are with data_root.') from error
    except UnicodeDecodeError as error:
        raise DataError(f'{path} is no text in UTF-8: {error}. Download it again.') from error


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f'{path} is empty. Download it again.')
    return lines


def _clean(name: str) -> str:
    return ' '.join(name.replace('_', ' ').split())
