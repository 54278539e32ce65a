"""A label map as the files that annotation tools read: PNG, COCO with run lengths, LabelMe with polygons."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import cv2
import numpy as np

from vlm_dense.colours import label_image
from vlm_dense.datasets.shapes import coco_mask
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
        text = json.dumps(content(labels, names, image))

        def write(place: str, text: str = text) -> None:
            with open(place, 'w', encoding='utf-8') as stream:
                stream.write(text)

        save(write, path)
    return paths
