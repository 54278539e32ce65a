"""A colour for each class, that a reader would expect where there is one: sky is blue, the background grey."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image

_EXPECTED = {
    'background': (120, 120, 120),
    'no data': (30, 30, 30),
    'empty background': (120, 120, 120),
    'sky': (90, 170, 230),
    'cloud': (200, 220, 240),
    'water': (40, 100, 200),
    'sea': (30, 80, 170),
    'river': (60, 120, 190),
    'tree': (40, 130, 50),
    'vegetation': (60, 150, 70),
    'grass': (110, 190, 70),
    'plant': (80, 170, 110),
    'leaves': (30, 90, 80),
    'flower': (235, 90, 140),
    'road': (110, 80, 120),
    'pavement': (190, 120, 190),
    'sidewalk': (190, 120, 190),
    'building': (150, 95, 60),
    'wall': (170, 140, 110),
    'sand': (225, 200, 130),
    'earth': (130, 100, 60),
    'snow': (235, 240, 250),
    'person': (220, 40, 60),
    'pedestrian': (220, 40, 60),
    'rider': (240, 100, 30),
    'bicyclist': (240, 100, 30),
    'car': (30, 50, 170),
    'sign': (240, 220, 40),
    'pole': (200, 200, 160),
    'fence': (170, 100, 130),
    'circle': (228, 60, 60),
    'square': (70, 120, 220),
    'triangle': (80, 180, 80),
    'star': (240, 200, 50),
    'cross': (160, 80, 190),
    'ring': (60, 200, 200),
    'crescent': (245, 140, 40),
    'heart': (240, 130, 190),
}


def class_colours(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """RGB, 0 to 255, of each class.

    Classes with an everyday colour have it, by their name; the others take hues by their place in the list, so that a
    class keeps its colour when others are added after it.

    Args:
        names: A name of each class.

    Examples:
        >>> from vlm_dense.colours import class_colours
        >>> class_colours(['background', 'star'])
        [(120, 120, 120), (240, 200, 50)]
    """
    shades = [(0.95, 0.95), (0.65, 0.7), (0.45, 1.0)]
    taken: set[tuple[int, int, int]] = set()
    colours = []
    for i, name in enumerate(names):
        hue = i * 0.6180339887 % 1  # golden section: neighbours in the list are far apart
        by_place = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, *shades[i // 8 % 3]))
        expected = _EXPECTED.get(name.strip().lower(), by_place)
        colours.append(by_place if expected in taken else expected)
        taken.add(colours[-1])
    return colours


def label_image(labels: np.ndarray, names: Sequence[str]) -> Image.Image:
    """A label map as an image with a palette: viewers show the colours of the classes, programs read the labels.

    Args:
        labels: uint8 (H, W): indices into ``names``, or others, as 255, which are black.
        names: A name of each class.
    """
    image = Image.fromarray(labels)
    if image.mode == 'L':  # more classes than 256 need 16 bits, which have no palette
        table = np.zeros((256, 3), np.uint8)
        table[: len(names)] = class_colours(names)[:256]
        image.putpalette(table.ravel().tolist())
    return image
