"""Scenes of the Shapes data set on one sheet."""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from vlm_dense.datasets.scenes import DOMAINS
from vlm_dense.datasets.shapes import DrawScene, ShapesDataset

GAP = 4


def overlay(data: dict, palette: np.ndarray) -> np.ndarray:
    """Label colours mixed into a greyed image: uint8 (H, W, 3), BGR."""
    grey = data['img'].mean(2, keepdims=True) * 0.35 + 40
    painted = np.broadcast_to(grey, data['img'].shape).copy()
    labelled = data['gt_instance_masks'].any(0)
    painted[labelled] = painted[labelled] * 0.25 + palette[data['gt_seg_map'][labelled], ::-1] * 0.75
    return painted.astype(np.uint8)


def legend(dataset: ShapesDataset, width: int) -> np.ndarray:
    """Swatch and name of every class, wrapped to a width in pixels: uint8 (h, width, 3), BGR."""
    column = 20 + max(cv2.getTextSize(n, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] for n in dataset.metainfo['classes'])
    per_row = max(1, width // (column + 8))
    rows = -(-len(dataset.metainfo['classes']) // per_row)
    strip = np.full((rows * 20 + 4, width, 3), 255, np.uint8)
    for i, (name, rgb) in enumerate(zip(dataset.metainfo['classes'], dataset.metainfo['palette'], strict=True)):
        x, y = 4 + i % per_row * (column + 8), 4 + i // per_row * 20
        cv2.rectangle(strip, (x, y), (x + 14, y + 14), rgb[::-1], -1)
        cv2.putText(strip, name, (x + 19, y + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def contact_sheet(args: argparse.Namespace) -> np.ndarray:
    """The whole sheet: uint8 (h, w, 3), BGR."""
    classes = args.classes[0] if args.classes[0] in ('all', 'base', 'new') else args.classes
    strips = []
    for domain in args.domain or DOMAINS:
        dataset = ShapesDataset(
            args.scenes,
            args.split,
            size=args.size,
            num_objects=args.objects,
            domain=domain,
            label=args.label,
            classes=classes,
            pipeline=[DrawScene()],
        )
        palette = np.array(dataset.metainfo['palette'])
        cells = []
        for data in dataset:
            pair = np.hstack([data['img'], overlay(data, palette)])
            pair = pair.repeat(args.zoom, 0).repeat(args.zoom, 1)
            cells.append(np.pad(pair, ((0, GAP), (0, GAP), (0, 0)), constant_values=255))
        row = np.hstack(cells)
        title = np.full((18, row.shape[1], 3), 255, np.uint8)
        cv2.putText(title, domain, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        strips += [title, row]
    return np.vstack([*strips, legend(dataset, row.shape[1])])
