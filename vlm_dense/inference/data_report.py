"""Report of ``tools/check_data.py`` on the data of a config, before a training."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS
from mmengine.runner import set_random_seed
from PIL import Image
from rich.progress import track

from vlm_dense.clip.digest import file_digest
from vlm_dense.colours import class_colours
from vlm_dense.datasets.config_checks import LOADERS, check_masks, leaves
from vlm_dense.datasets.custom import images_below
from vlm_dense.drawing import colour, draw_instances, draw_rows
from vlm_dense.engine.configs.checks import check_values
from vlm_dense.engine.configs.pipelines import is_reading
from vlm_dense.engine.runner.launch import check_same_classes, fill_class_names, read_config
from vlm_dense.errors import DataError, UserError, counted, first_of
from vlm_dense.inference.common import save

IGNORED = 255


@dataclass
class Report:
    """Findings in one data set.

    Attributes:
        images: Number of images.
        sizes: (width, height) of those that could be read.
        amounts: Pixels, boxes or images of each label; label -1 counts pixels to ignore.
        shown: Images that show each label.
        faults: What cannot be used, a message each.
        remarks: What can be used and is probably not meant.
        digests: Digest of a file -> its path.
    """

    classes: Sequence[str] = ()
    unit: str = 'images'
    images: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    amounts: Counter = field(default_factory=Counter)
    shown: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict:
        """The report for other programs: of each class the ``amount`` of ``unit`` and the ``images`` that show it."""
        named = [*enumerate(self.classes), (-1, 'ignored')]
        return dict(
            images=self.images,
            unit=self.unit,
            classes={name: dict(amount=self.amounts[label], images=self.shown[label]) for label, name in named},
            remarks=self.remarks,
            faults=self.faults,
        )


def check(args: argparse.Namespace) -> dict[str, Report]:
    """Print the report and save the images.

    Args:
        args: With ``config``, ``cfg_options``, ``data_root``, ``classes``, ``out``, ``samples``, ``show`` and
            ``quiet``. Without ``out`` each config has a folder of images of its own.

    Returns:
        The report of each data set.
    """
    cfg = read_config(args)
    check_values(cfg)
    check_masks(cfg)
    reports: dict[str, Report] = {}
    for name, dataset in _different_sets(cfg).items():
        for key, leaf in leaves(dataset, name):
            reports[key] = _look(leaf, args.quiet)
            print(describe(key, reports[key], args.show))
        if not any(report.faults for key, report in reports.items() if key.startswith(name)):
            path = os.path.join(args.out or os.path.join('work_dirs', 'check_data', _stem(args)), f'{name}.png')
            save(overview(dataset, args.samples).save, path)
            print(f'  What the loader gives is drawn in {path}')
    if not any(report.faults for report in reports.values()):
        of_training = _faults_of_training(cfg)
        if of_training:
            reports['config'] = Report(faults=of_training)
            print('\n'.join(of_training))
    for line in shared_images(reports):
        print(line)
    faults = sum(len(report.faults) for report in reports.values())
    print(f'{counted(faults, "fault")}: fix these files before training.' if faults else 'No faults.')
    return reports


def _stem(args: argparse.Namespace) -> str:
    return os.path.splitext(os.path.basename(args.config))[0]


def _faults_of_training(cfg: Config) -> list[str]:
    """What a training refuses though each data set by itself can be read."""
    found = []
    for look in (fill_class_names, check_same_classes):
        try:
            look(cfg)
        except UserError as error:
            found.append(str(error))
    return found


def _different_sets(cfg: Config) -> dict[str, dict]:
    """'train', 'val', 'test' -> data set; equal sets are checked once."""
    found: dict[str, dict] = {}
    for loader in LOADERS:
        dataset = (cfg.get(loader) or {}).get('dataset')
        if dataset is not None and dataset not in found.values():
            found[loader.partition('_')[0]] = dataset
    return found


def _look(leaf: dict, quiet: bool) -> Report:
    """Read every file of a data set."""
    report = Report()
    try:
        data = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})
        report.classes = tuple(data.metainfo.get('classes') or ())
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of its steps
            data.full_init()
        read = Compose([step for step in leaf.get('pipeline') or [] if is_reading(step)])
    except UserError as error:  # of the set as a whole
        report.faults.append(str(error))
        return report
    report.images = len(data)
    report.remarks += _masks_left_out(data)
    if hasattr(data, 'COCOAPI'):
        report.remarks += _boxes_left_out(data.ann_file)
    for index in track(range(len(data)), description='Reading', transient=True, disable=quiet):
        info = data.get_data_info(index)
        try:
            _count(report, info, read(info))
        except UserError as error:
            report.faults.append(str(error))
    return report


def _masks_left_out(data) -> list[str]:
    """A remark on masks that belong to no image of a folder, of data sets that list their images in no file."""
    prefix = getattr(data, 'data_prefix', None) or {}
    images, masks = prefix.get('img_path'), prefix.get('seg_map_path')
    if not images or not masks or getattr(data, 'ann_file', '') or not os.path.isdir(masks):
        return []
    names = [os.path.relpath(path, images) for path in images_below(images)]
    known = {os.path.splitext(name)[0] for name in names} | {name.removesuffix(data.img_suffix) for name in names}
    found = [os.path.relpath(path, masks) for path in images_below(masks) if path.endswith(data.seg_map_suffix)]
    alone = [name for name in found if name.removesuffix(data.seg_map_suffix) not in known]
    told = first_of(alone)
    return [f'{len(alone)} masks in {masks} belong to no image and are left out: {told}.'] if alone else []


def _boxes_left_out(file: str) -> list[str]:
    """A warning on boxes of a COCO file that mmdet skips silently."""
    with open(file, encoding='utf-8') as stream:
        content = json.load(stream)
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    wrong = []
    for annotation in content['annotations']:
        (x, y, w, h), (width, height) = annotation['bbox'], sizes[annotation['image_id']]
        inside = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
        if min(w, h) < 1 or min(inside) <= 0 or (w * h if annotation.get('area') is None else annotation['area']) <= 0:
            wrong.append(annotation['id'])
    told = ', '.join(map(str, wrong[:5])) + (', ...' if len(wrong) > 5 else '')
    return (
        [f'{len(wrong)} boxes have no area or lie outside their image and are left out: ids {told}.'] if wrong else []
    )


def _count(report: Report, info: dict, sample: dict) -> None:
    """Add one sample that was read.

    Raises:
        DataError: another size than the annotations say.
    """
    height, width = sample['img'].shape[:2]
    path = info.get('img_path')
    if path and os.path.isfile(path):
        digest = file_digest(path)
        if digest in report.digests:
            report.remarks.append(f'{path} is the same image as {report.digests[digest]}.')
        report.digests.setdefault(digest, path)
    if 'instances' in info and (info.get('height', height), info.get('width', width)) != (height, width):
        raise DataError(
            f'{path} has {width} x {height} px, its annotations say {info["width"]} x {info["height"]}: boxes would '
            'stand in wrong places. Fix the entry, or take the image that was annotated.'
        )
    report.sizes.append((width, height))
    if 'gt_seg_map' in sample:
        report.unit = 'pixels'
        values, counts = np.unique(sample['gt_seg_map'], return_counts=True)
        labels = {(-1 if v == IGNORED else int(v)): int(n) for v, n in zip(values, counts, strict=True)}
        if set(labels) == {-1}:
            report.remarks.append(f'{info.get("seg_map_path", path)} has no labels: all its pixels are ignored.')
    elif 'instances' in info:
        report.unit = 'boxes'
        labels = Counter(box['bbox_label'] for box in info['instances'] if not box.get('ignore_flag'))
        if not labels:
            report.remarks.append(f'{path} has no box.')
    else:
        given = info.get('gt_label', info.get('gt_labels', sample.get('gt_label', ())))
        labels = Counter(np.atleast_1d(np.asarray(given, dtype=int)).tolist())
    report.amounts.update(labels)
    report.shown.update(labels.keys())


# --- words ----------------------------------------------------------------------------------------------------


def describe(name: str, report: Report, show: int = 10) -> str:
    """The report as text.

    Args:
        name: Of the set.
        report: What was found.
        show: Faults, and remarks, that are listed.
    """
    lines = [f'{name}: {counted(report.images, "image")}{_sizes(report.sizes)}']
    total = sum(report.amounts.values())
    if total:
        width = max([*map(len, report.classes), 8])
        lines.append(f'  {"class":{width}}{report.unit:>12}{"share":>8}{"images":>9}')
        for label, text in [*enumerate(report.classes), *([(-1, '(ignored)')] if report.amounts[-1] else [])]:
            amount = report.amounts[label]
            lines.append(f'  {text:{width}}{amount:12,}{amount / total:8.1%}{report.shown[label]:9,}')
    absent = [text for label, text in enumerate(report.classes) if total and not report.amounts[label]]
    remarks = [f'No image shows {", ".join(absent)}.'] if absent else []
    for title, messages in (('remark', remarks + report.remarks), ('fault', report.faults)):
        if messages:
            lines.append(f'  {counted(len(messages), title)}:')
            lines += [f'    {message}' for message in messages[:show]]
            if len(messages) > show:
                lines.append(f'    ... and {len(messages) - show} more')
    return '\n'.join(lines)


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    if not sizes:
        return ''
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    least, middle, most = (f'{w} x {h}' for w, h in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
    return f', all of {least} px' if least == most else f', {least} to {most} px, median {middle}'


def shared_images(reports: dict[str, Report]) -> list[str]:
    """A line for each two sets that have images in common, which would make a validation meaningless."""
    places = defaultdict(dict)
    for name, report in reports.items():
        for digest, path in report.digests.items():
            places[digest][name] = path
    pairs: dict[tuple, list[str]] = defaultdict(list)
    for found in places.values():
        if len(found) > 1:
            pairs[tuple(found)].append(' = '.join(found.values()))
    return [
        f'{len(same)} images are in {" and in ".join(names)}, as {same[0]}: validation would not be one.'
        for names, same in pairs.items()
    ]


# --- images -------------------------------------------------------------------------------------------------


def overview(dataset: dict, number: int) -> Image.Image:
    """Samples spread over a data set, as its pipeline gives them to the model, with their annotations.

    Args:
        dataset: Config of the data set, with its pipeline.
        number: Of samples.
    """
    set_random_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        data = DATASETS.build(dataset)
        data.full_init()
    names = list(data.metainfo['classes'])
    samples = [data[i] for i in sorted(set(np.linspace(0, len(data) - 1, number).astype(int).tolist()))]
    if 'gt_label' in samples[0]['data_samples'] or 'gt_labels' in samples[0]['data_samples']:
        return draw_rows([[_image(s) for s in samples]], [_class_of(s['data_samples'], names) for s in samples])
    colours = class_colours(names)
    rows, seen = [], set()
    for sample in samples:
        image, annotated = _image(sample), sample['data_samples']
        if 'gt_sem_seg' in annotated:
            labels = annotated.gt_sem_seg.data[0].numpy()
            seen.update(np.unique(labels).tolist())
            rows.append([image, colour(labels, colours)])
        else:
            seen.update(annotated.gt_instances.labels.tolist())
            meta = dict(classes=names, palette=colours)
            rows.append([image, draw_instances(image, annotated.gt_instances, meta, 512)])
    legend = [(names[label], colours[label]) for label in sorted(seen) if label < len(names)]
    return draw_rows(rows, ['image', 'annotation'], legend, tile=384)


def _image(sample: dict) -> np.ndarray:
    return np.ascontiguousarray(sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1])


def _class_of(annotated, names: Sequence[str]) -> str:
    labels = annotated.get('gt_label', annotated.get('gt_labels'))
    return ', '.join(names[label] for label in np.atleast_1d(np.asarray(labels)).tolist())
