"""Images of label maps for people: colours over the greyed image, names and shares below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten

import cv2
import numpy as np
from PIL import Image

from vlm_dense.colours import class_colours
from vlm_dense.drawing import draw_rows
from vlm_dense.inference.common import view_side

_LEGEND_WIDTH = 40


def shares(labels: np.ndarray) -> list[tuple[int, float]]:
    """(label, share of the pixels) of the labels in a map, the largest first."""
    values, counts = np.unique(labels, return_counts=True)
    return [(int(values[i]), counts[i] / labels.size) for i in np.argsort(-counts, kind='stable')]


def draw_overlay(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str, opacity: float = 0.5, note: str = ''
) -> Image.Image:
    """Colours over the greyed image, below it names, shares of the pixels, colours.

    Small images are enlarged, large ones reduced.

    Args:
        image: uint8 (H, W, 3) BGR.
        labels: Indices (H, W) into ``names``.
        names: A name of each class.
        title: Line above the image.
        opacity: Of the colours, 0 to 1.
        note: A warning above all.
    """
    overlay = colour_over(image, labels, names, opacity)
    return draw_rows([[overlay]], [title], legend_of([labels], names), tile=view_side(labels.shape), note=note)


def draw_side_by_side(
    image: np.ndarray, labels: Mapping[str, np.ndarray], names: Sequence[str], opacity: float = 0.5, note: str = ''
) -> Image.Image:
    """The image, and beside it the colours of several label maps, in rows of up to four; below them the names.

    Args:
        image: uint8 (H, W, 3) BGR.
        labels: Title of a column -> indices (H, W) into ``names``.
        names: A name of each class.
        opacity: Of the colours, 0 to 1.
        note: A warning above all.
    """
    maps = [colour_over(image, each, names, opacity) for each in labels.values()]
    tiles = 1 + len(maps)
    most = next((each for each in (1, 2, 3, 4) if tiles <= each), 3 if tiles <= 9 and tiles != 8 else 4)
    tile = max(view_side(image.shape) // most, 220)
    plain = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    legend = legend_of(list(labels.values()), names)
    return draw_rows([[plain, *maps]], ['image', *labels], legend, tile=tile, note=note, most=most)


def colour_over(image: np.ndarray, labels: np.ndarray, names: Sequence[str], opacity: float) -> np.ndarray:
    """RGB uint8 (H, W, 3): the colours of the classes ``names`` over a greyed image (H, W, 3), BGR."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(grey, 1 - opacity, np.array(class_colours(names), np.uint8)[labels], opacity, 0)


def legend_of(maps: Sequence[np.ndarray], names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """(name, RGB) of each class in label maps, the largest first; of a single map with its shares of the pixels."""
    colours, together = class_colours(names), np.concatenate([each.ravel() for each in maps])
    legend = []
    for k, share in shares(together):
        text = shorten(names[k], _LEGEND_WIDTH, placeholder='...')
        legend.append((f'{text} {share:.1%}' if len(maps) == 1 else text, list(colours[k])))
    return legend
