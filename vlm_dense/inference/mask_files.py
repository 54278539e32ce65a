"""Results as the files that annotation tools read: PNG, COCO with run lengths, LabelMe with polygons."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import cv2
import numpy as np

from vlm_dense.colours import label_image
from vlm_dense.datasets.shapes import coco_mask
from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.inference.common import save

TOLERANCE = 1.0
"""Pixels by which a polygon may leave the border of its mask."""


def coco_of(labels: np.ndarray, names: Sequence[str], image: str) -> dict:
    """A COCO file's content: one annotation for each class that the label map shows, its mask in run lengths.

    Args:
        labels: Integers (H, W), indices into ``names``; others are left out.
        names: A name of each class; category ids count from 1.
        image: Name of the image's file.
    """
    from pycocotools import mask as run_lengths

    height, width = labels.shape
    annotations = []
    for label in sorted(set(np.unique(labels).tolist()) & set(range(len(names)))):
        code = coco_mask(labels == label)
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=1,
                category_id=label + 1,
                segmentation=code,
                area=int(run_lengths.area(code)),
                bbox=run_lengths.toBbox(code).tolist(),
                iscrowd=0,
            )
        )
    return dict(
        images=[dict(id=1, file_name=image, width=width, height=height)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(names)],
        annotations=annotations,
    )


def labelme_of(labels: np.ndarray, names: Sequence[str], image: str) -> dict:
    """A LabelMe file's content: a polygon around each connected part of each class.

    Polygons have no holes: what lies inside a part is drawn over it by a polygon of its own, the largest parts first.

    Args:
        labels, names, image: As of :func:`coco_of`.
    """
    parts = []
    for label in sorted(set(np.unique(labels).tolist()) & set(range(len(names)))):
        outlines, _ = cv2.findContours((labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            points = cv2.approxPolyDP(outline, TOLERANCE, closed=True).reshape(-1, 2)
            if len(points) >= 3:
                parts.append((cv2.contourArea(outline), names[label], points.astype(float).tolist()))
    parts.sort(key=lambda part: -part[0])
    return dict(
        version='5.0.1',
        flags={},
        shapes=[dict(label=n, points=p, group_id=None, shape_type='polygon', flags={}) for _, n, p in parts],
        imagePath=image,
        imageData=None,
        imageHeight=labels.shape[0],
        imageWidth=labels.shape[1],
    )


def objects_coco(found: dict, names: Sequence[str], image: str, shape: tuple[int, int]) -> dict:
    """A COCO file's content: one annotation for each object, with its ``score``.

    Args:
        found: ``labels``, ``scores``, ``bboxes`` (x1 y1 x2 y2) and, if there are some, ``masks`` (run lengths).
        names: A name of each class; category ids count from 1.
        image: Name of the image's file.
        shape: (height, width) of the image.
    """
    from pycocotools import mask as run_lengths

    annotations = []
    for i, (label, score, (x1, y1, x2, y2)) in enumerate(_objects(found)):
        one = dict(id=i + 1, image_id=1, category_id=label + 1, score=score, iscrowd=0)
        one |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
        if 'masks' in found:
            mask = found['masks'][i]
            one |= dict(segmentation=mask, area=int(run_lengths.area(mask)))
        annotations.append(one)
    return dict(
        images=[dict(id=1, file_name=image, width=shape[1], height=shape[0])],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(names)],
        annotations=annotations,
    )


def objects_labelme(found: dict, names: Sequence[str], image: str, shape: tuple[int, int]) -> dict:
    """A LabelMe file's content: a polygon for each part of an object with a mask, a rectangle for one without.

    Args:
        found, names, image, shape: As of :func:`objects_coco`.
    """
    from pycocotools import mask as run_lengths

    shapes = []
    for i, (label, score, (x1, y1, x2, y2)) in enumerate(_objects(found)):
        more = dict(label=names[label], group_id=i, description=f'score {score:.3f}', flags={})
        if 'masks' in found:
            polygons = labelme_of(1 - run_lengths.decode(found['masks'][i]), ['object'], image)['shapes']
            shapes += [dict(polygon, **more) for polygon in polygons]
        else:
            shapes.append(dict(more, points=[[x1, y1], [x2, y2]], shape_type='rectangle'))
    return dict(labelme_of(np.ones(shape, np.uint8), [], image), shapes=shapes)


def above(found: dict, threshold: float) -> dict:
    """The objects of a prediction of ``DetInferencer`` with a score above a threshold, in the same form."""
    kept = [i for i, score in enumerate(found['scores']) if score > threshold]
    return {key: [values[i] for i in kept] for key, values in found.items()}


def _objects(found: dict) -> list[tuple]:
    return list(zip(found['labels'], found['scores'], found['bboxes'], strict=True))


def joined(contents: Sequence[dict]) -> dict:
    """One COCO file's content of those of several images with the same categories."""
    images, annotations = [], []
    for number, content in enumerate(contents, 1):
        images += [dict(image, id=number) for image in content['images']]
        for one in content['annotations']:
            annotations.append(dict(one, id=len(annotations) + 1, image_id=number))
    return dict(images=images, categories=contents[0]['categories'], annotations=annotations)


FORMATS = ('coco', 'labelme')
"""Formats of :func:`write_annotations`."""


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats as they were given.

    Raises:
        ConfigError: an unknown one.
    """
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(unknown_name(name, 'formats of annotations', FORMATS))
    return formats


def annotation_files(out_dir: str, names: Sequence[str], formats: Sequence[str]) -> list[dict[str, str]]:
    """Format -> file of each image: ``OUT/coco.json``, one of all images, and ``OUT/labelme/NAME.json``."""
    places = dict(coco='coco.json', labelme=os.path.join('labelme', '{}.json'))
    return [{key: os.path.join(out_dir, places[key].format(name)) for key in formats} for name in names]


def write_annotations(files: Sequence[dict[str, str]], contents: Sequence[dict[str, dict]]) -> None:
    """Write the files of all images.

    Args:
        files: As of :func:`annotation_files`.
        contents: Format -> content of each image.

    Raises:
        DataError: they cannot be written.
    """
    for paths, found in zip(files, contents, strict=True):
        if 'labelme' in paths:
            save_json(found['labelme'], paths['labelme'])
    if files and 'coco' in files[0]:
        save_json(joined([found['coco'] for found in contents]), files[0]['coco'])


def save_json(content: dict, path: str) -> None:
    """Write a file of JSON.

    Raises:
        DataError: it cannot be written.
    """
    text = json.dumps(content)

    def write(place: str) -> None:
        with open(place, 'w', encoding='utf-8') as stream:
            stream.write(text)

    save(write, path)


def write_mask_files(labels: np.ndarray, names: Sequence[str], image: str, folder: str, stem: str) -> list[str]:
    """Write a label map as PNG, COCO and LabelMe files.

    Args:
        labels, names, image: As of :func:`coco_of`.
        folder: Where the files go.
        stem: Their names begin with it.

    Returns:
        Paths of the three files.

    Raises:
        DataError: they cannot be written.
    """
    paths = [os.path.join(folder, f'{stem}{ending}') for ending in ('.png', '.coco.json', '.labelme.json')]
    save(label_image(labels, names).save, paths[0])
    for path, content in zip(paths[1:], (coco_of, labelme_of), strict=True):
        save_json(content(labels, names, image), path)
    return paths
