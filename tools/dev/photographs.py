"""Two photographs with masks drawn by hand, as data of one's own, and the first image of the README.

python tools/dev/photographs.py data data/photographs
python tools/train.py configs/denseclip/denseclip_own-masks.py --data-root data/photographs \
    --classes data/photographs/names.txt \
    --cfg-options train_cfg.max_iters=120 train_cfg.val_interval=120 param_scheduler.1.end=120
python tools/dev/photographs.py draw work_dirs/denseclip_own-masks/iter_120.pth docs/images/start.png

The photographs are those of scikit-learn, ``sklearn.datasets.load_sample_image``: "china" by danielbuechele and
"flower" by vultilion, both of Flickr and under CC BY 2.0. Their outer thirds are for training, their middle thirds for
validation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

import vlm_dense

vlm_dense.setup()  # before others import mmseg
from vlm_dense.colours import class_colours
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.drawing import colour, draw_rows
from vlm_dense.engine.messages import user_errors
from vlm_dense.inference import SegInferencer

NAMES = ('sky', 'building', 'tree', 'water', 'flower', 'leaves')
SKY, BUILDING, TREE, WATER, FLOWER, LEAVES = range(6)
IGNORED = 255
SCENE = 5
"""Test scene of Shapes that is drawn below the photographs."""

# corners (x, y) in pixels of the photograph of 640 x 427
_BUILDING = [
    *((205, 28), (197, 36), (199, 55), (186, 74), (160, 96), (98, 122), (96, 131), (120, 136), (121, 160), (86, 176)),
    *((88, 186), (104, 188), (101, 233), (93, 246), (64, 268), (66, 276), (86, 284), (78, 330), (100, 338), (158, 338)),
    *((163, 358), (215, 364), (246, 390), (285, 392), (292, 412), (305, 412), (306, 395), (330, 372), (370, 345)),
    *((370, 330), (346, 322), (348, 304), (339, 298), (338, 268), (352, 254), (348, 246), (325, 243), (320, 232)),
    *((320, 188), (329, 180), (326, 170), (296, 160), (295, 138), (318, 128), (318, 120), (285, 103), (240, 84)),
    *((222, 62), (214, 50), (215, 36)),
]
_TREES = [
    [(0, 150), (6, 182), (20, 186), (46, 205), (48, 214), (72, 230), (72, 244), (40, 262), (30, 272), (0, 278)],
    [(0, 290), (25, 318), (62, 322), (78, 335), (158, 336), (180, 358), (235, 366), (290, 400), (290, 427), (0, 427)],
    [
        *((306, 427), (330, 374), (378, 338), (402, 312), (480, 296), (515, 278), (552, 284), (566, 268), (548, 240)),
        *((552, 214), (574, 196), (580, 158), (600, 136), (612, 138), (634, 160), (639, 176), (639, 427)),
    ],
]
_HORIZON = 212


def masks() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, RGB uint8 (H, W, 3), labels uint8 (H, W)) of the photographs."""
    found = []
    for name in ('china', 'flower'):
        image = load_sample_image(f'{name}.jpg')
        red, green, blue = (image[..., k].astype(int) for k in range(3))
        labels = np.full(image.shape[:2], LEAVES, np.uint8)
        if name == 'flower':
            labels[(red > 120) & (red > blue + 25) & (red > green)] = FLOWER
            labels = _filled(labels)
        else:
            labels[:] = np.where(np.arange(len(labels))[:, None] < _HORIZON, SKY, WATER)
            labels[_HORIZON - 8 : _HORIZON + 12] = IGNORED  # hills behind haze
            drawn = Image.fromarray(labels)
            for corners in _TREES:
                ImageDraw.Draw(drawn).polygon(corners, TREE)
            ImageDraw.Draw(drawn).polygon(_BUILDING, BUILDING)
            labels = np.array(drawn)
            bright = np.array(Image.fromarray((red + green + blue > 480).astype(np.uint8) * 255).resize((320, 213)))
            bright = np.array(Image.fromarray(bright).resize(image.shape[1::-1])) > 127
            labels[(labels == TREE) & bright & (blue > red)] = SKY
            labels[(labels == SKY) & (np.arange(len(labels))[:, None] > _HORIZON)] = WATER
        found.append((name, image, labels))
    return found


def _filled(labels: np.ndarray) -> np.ndarray:
    """The flower without its dark gaps."""
    import cv2

    flower = (labels == FLOWER).astype(np.uint8)
    flower = cv2.morphologyEx(flower, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    flower = cv2.morphologyEx(flower, cv2.MORPH_OPEN, np.ones((15, 15), np.uint8))
    return np.where(flower > 0, FLOWER, LEAVES).astype(np.uint8)


def thirds(width: int) -> tuple[slice, slice, slice]:
    """The columns of the left, the middle and the right third."""
    first, second = width // 3, 2 * width // 3
    return slice(0, first), slice(first, second), slice(second, width)


def lay_out(folder: Path) -> None:
    """Write images and masks as docs/own_data.md describes them."""
    for name, image, labels in masks():
        parts = dict(zip(('left', 'middle', 'right'), thirds(image.shape[1]), strict=True))
        for part, columns in parts.items():
            for kind, array in (('images', image), ('annotations', labels)):
                target = folder / kind / ('val' if part == 'middle' else 'train')
                target.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array[:, columns]).save(target / f'{name}_{part}.png')
    (folder / 'names.txt').write_text('\n'.join(NAMES) + '\n', encoding='utf-8')


def draw(checkpoint: Path, out: Path) -> None:
    """Draw photographs, masks and predictions, and a drawn scene below them with the model that is in the package."""
    model, rows, shown = SegInferencer('denseclip_own-masks', str(checkpoint), show_progress=False), [], set()
    for _, image, labels in masks():
        middle = thirds(image.shape[1])[1]
        found = labels.copy()
        found[:, middle] = model(np.ascontiguousarray(image[:, middle, ::-1]))['predictions']
        palette = class_colours(NAMES)
        row = [image, colour(labels, palette), colour(found, palette)]
        rows.append([_framed(each, middle) for each in row])
        shown |= {*np.unique(labels), *np.unique(found)} - {IGNORED}
    scene = ShapesDataset(
        SCENE + 1, 'test', size=96, num_objects=(3, 5), label='shape', background=True, pipeline=[DrawScene()]
    )[SCENE]
    model = SegInferencer('denseclip_shapes', show_progress=False)
    found = model(scene['img'])['predictions']
    palette = class_colours(model.class_names)
    rows.append([scene['img'][..., ::-1], colour(scene['gt_seg_map'], palette), colour(found, palette)])
    names = [*(NAMES[k] for k in sorted(shown)), *(model.class_names[k] for k in np.unique(scene['gt_seg_map']))]
    legend = list(zip(names, class_colours(names), strict=True))
    draw_rows(rows, ['image', 'masks', 'DenseCLIP'], legend, tile=216).save(out, optimize=True)


def _framed(image: np.ndarray, columns: slice) -> np.ndarray:
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).rectangle((columns.start, 1, columns.stop - 1, image.shape[0] - 2), outline='white', width=3)
    return np.asarray(drawn)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = parser.add_subparsers(dest='program', required=True)
    programs.add_parser('data', help='write images and masks').add_argument('folder', type=Path)
    drawing = programs.add_parser('draw', help='draw what a checkpoint predicts')
    drawing.add_argument('checkpoint', type=Path)
    drawing.add_argument('out', type=Path)
    args = parser.parse_args(argv)
    with user_errors():
        lay_out(args.folder) if args.program == 'data' else draw(args.checkpoint, args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
