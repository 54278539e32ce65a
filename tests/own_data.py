"""Small data of one's own, drawn: images with masks, boxes in a COCO file, a folder of images for each class."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vlm_dense.datasets import DrawScene, ShapesDataset

NAMES = ['empty background', 'circle', 'star', 'heart']


def scenes(number: int, label: str, size: int = 64) -> ShapesDataset:
    """Scenes of the shapes of :data:`NAMES`, one to three in each."""
    return ShapesDataset(
        number,
        'train',
        size=size,
        num_objects=(1, 3),
        classes=NAMES[1:],
        label=label,
        background=True,
        pipeline=[DrawScene()],
    )


def draw_masks(root: Path, number: int = 10) -> None:
    """``images``, ``annotations`` and ``names.txt``, as docs/own_data.md describes them."""
    for folder in ('images', 'annotations'):
        (root / folder).mkdir(parents=True)
    for i, scene in enumerate(scenes(number, 'shape')):
        cv2.imwrite(str(root / 'images' / f'{i}.png'), scene['img'])
        Image.fromarray(scene['gt_seg_map'].astype(np.uint8)).save(root / 'annotations' / f'{i}.png')
    (root / 'names.txt').write_text('\n'.join(NAMES))


def draw_boxes(root: Path, number: int = 10) -> None:
    """``images`` and ``annotations.json``."""
    (root / 'images').mkdir(parents=True)
    content = dict(images=[], annotations=[], categories=[dict(id=k, name=NAMES[k]) for k in range(1, len(NAMES))])
    for i, scene in enumerate(scenes(number, 'shape')):
        cv2.imwrite(str(root / 'images' / f'{i}.png'), scene['img'])
        content['images'].append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        for label in set(np.unique(scene['gt_seg_map']).tolist()) - {0, 255}:
            ys, xs = np.nonzero(scene['gt_seg_map'] == label)
            box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
            content['annotations'].append(
                dict(id=len(content['annotations']), image_id=i, category_id=label, bbox=box, iscrowd=0)
            )
    (root / 'annotations.json').write_text(json.dumps(content))


def draw_folders(root: Path, number: int = 5) -> None:
    """A folder of images for each shape."""
    for name in NAMES[1:]:
        (root / name).mkdir(parents=True)
        shapes = ShapesDataset(number, 'train', size=64, num_objects=(1, 1), classes=[name], pipeline=[DrawScene()])
        for i, scene in enumerate(shapes):
            cv2.imwrite(str(root / name / f'{i}.png'), scene['img'])
