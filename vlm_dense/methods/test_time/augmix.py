"""AugMix as test-time prompt tuning uses it: mixtures of chains of simple operations.

"AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020, section 3, with the nine
operations that leave the colours of the corrupted test sets alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from PIL import Image, ImageOps

Operation = Callable[[Image.Image, float, RandomState], Image.Image]
_SIZE = 224  # side of the images that the shifts of the published code are for


def _level(severity: float, draw: RandomState) -> float:
    return draw.uniform(low=0.1, high=severity)


def _signed(level: float, draw: RandomState) -> float:
    return -level if draw.uniform() > 0.5 else level


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def autocontrast(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Stretch each channel to the full range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Make the histogram of each channel flat."""
    return ImageOps.equalize(image)


def posterize(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Keep 4 bits a channel, or up to 4 fewer."""
    return ImageOps.posterize(image, 4 - int(0.4 * _level(severity, draw)))


def rotate(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """By up to 30 degrees about the centre."""
    degrees = int(3 * _level(severity, draw))
    return image.rotate(_signed(degrees, draw), resample=Image.Resampling.BILINEAR)


def solarize(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Invert what is brighter than a threshold."""
    return ImageOps.solarize(image, 256 - int(25.6 * _level(severity, draw)))


def shear_x(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Shift rows, by up to 0.3 px a row."""
    shear = _signed(0.03 * _level(severity, draw), draw)
    return _affine(image, (1, shear, 0, 0, 1, 0))


def shear_y(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Shift columns, by up to 0.3 px a column."""
    shear = _signed(0.03 * _level(severity, draw), draw)
    return _affine(image, (1, 0, 0, shear, 1, 0))


def translate_x(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Shift sideways, by up to a third of the side."""
    shift = _signed(int(_level(severity, draw) * (_SIZE / 3) / 10), draw)
    return _affine(image, (1, 0, shift * image.width / _SIZE, 0, 1, 0))


def translate_y(image: Image.Image, severity: float, draw: RandomState) -> Image.Image:
    """Shift up or down, by up to a third of the side."""
    shift = _signed(int(_level(severity, draw) * (_SIZE / 3) / 10), draw)
    return _affine(image, (1, 0, 0, 0, 1, shift * image.height / _SIZE))


OPERATIONS: tuple[Operation, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def augmix(image: Image.Image, severity: float, draw: RandomState, chains: int = 3) -> np.ndarray:
    """Mixture of an image and of chains of one to three operations on it.

    Args:
        image: RGB.
        severity: Upper end of the levels, at least 0.1 and at most 10.
        draw: Gives weights, lengths, operations and levels, in the order of the published code.

    Returns:
        (H, W, 3), float32, 0 to 255. It mixes before the normalisation, which gives the same as to mix after it.
    """
    weights = np.float32(draw.dirichlet([1.0] * chains))
    own = np.float32(draw.beta(1.0, 1.0))
    original = np.asarray(image, np.float32)
    mixture = np.zeros_like(original)
    for weight in weights:
        changed = image
        for _ in range(draw.randint(1, 4)):
            changed = OPERATIONS[draw.choice(len(OPERATIONS))](changed, severity, draw)
        mixture += weight * np.asarray(changed, np.float32)
    return own * original + (1 - own) * mixture
