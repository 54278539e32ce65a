"""Save a contact sheet of the Shapes data set: a row per domain, each picture beside its labels.

python tools/show_dataset.py --out sheet.png --label shape
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import vlm_dense


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='shapes.png', help='file to write')
    parser.add_argument('--domain', nargs='+', help='rows (default: all domains)')
    parser.add_argument('--label', default='shape', help='shape, colour or shape_colour')
    parser.add_argument('--classes', nargs='+', default=['all'], help='all, base, new or names')
    parser.add_argument('--split', default='val', help='train, val or test')
    parser.add_argument('--objects', nargs=2, type=int, default=(1, 4), metavar=('LEAST', 'MOST'))
    parser.add_argument('--size', type=int, default=64, help='side of a scene in pixels')
    parser.add_argument('--scenes', type=int, default=5, help='scenes a row')
    parser.add_argument('--zoom', type=int, default=2, help='whole number by which pixels are enlarged')
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and what is wrong with the arguments, before torch is imported

import cv2
import numpy as np
from PIL import Image

vlm_dense.setup()  # before others import mmseg
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.datasets.scenes import DOMAINS
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError
from vlm_dense.inference.common import save

GAP = 4


def overlay(data: dict, palette: np.ndarray) -> np.ndarray:
    """Label colours mixed into a greyed picture: uint8 (H, W, 3), BGR."""
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    with user_errors():
        if min(args.scenes, args.zoom, args.size) < 1:
            raise ConfigError('--scenes, --zoom and --size must be at least 1.')
        picture = Image.fromarray(contact_sheet(args)[..., ::-1])
        suffix = Path(args.out).suffix.lower()
        if suffix not in Image.registered_extensions():
            raise ConfigError(f'--out {args.out}: {suffix or "no suffix"} is no format of pictures; take .png.')
        few = suffix in ('.png', '.gif')  # few colours make a small file, where the format knows such
        save((picture.quantize(255) if few else picture).save, args.out)
        size = Path(args.out).stat().st_size // 1000
    print(f'{args.out}: {picture.width} x {picture.height} px, {size} kB')


if __name__ == '__main__':
    main()
