"""Deterministic drawn scenes: coloured shapes on textured backgrounds, in numpy alone.

A scene follows from a key (a string) and its settings, never from global
state, so neither the order nor the process in which scenes are drawn matters.
Layout is kept in units relative to the image's short side and all geometry is
integer arithmetic, so a key gives the same scene at every size and the same
pixels on every platform.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlm_dense.errors import ConfigError, unknown_name

SHAPES = ('circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart')
COLOURS = {
    'red': (222, 30, 38),
    'orange': (250, 138, 18),
    'yellow': (246, 228, 44),
    'green': (36, 158, 58),
    'cyan': (44, 212, 222),
    'blue': (38, 66, 214),
    'purple': (128, 40, 170),
    'pink': (252, 146, 196),
}
"""Colour name -> RGB before jitter."""
SHAPE_GROUPS = {
    'round': ('circle', 'ring', 'crescent'),
    'polygonal': ('square', 'triangle', 'cross'),
    'pointed': ('star', 'heart'),
}
COLOUR_GROUPS = {'warm': ('red', 'orange', 'yellow', 'pink'), 'cold': ('green', 'cyan', 'blue', 'purple')}
PAIRS = tuple((s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS)))
"""(shape id, colour id) of the 64 classes 'red circle', 'orange circle', ..., 'pink heart', in label order."""
DOMAINS = ('source', 'sketch', 'inverted', 'noisy', 'night')

MIN_SIDE = 16
MAX_OBJECTS = 16
VISIBLE = 40
"""Least share, in percent, of an object that must stay visible; else the object is left out of the scene."""

_RGB = np.array(list(COLOURS.values()))
_ANGLES = 256
_COS = [round(float(c)) for c in np.cos(2 * np.pi * np.arange(_ANGLES) / _ANGLES) * (1 << 14)]
_SIN = [_COS[(i - _ANGLES // 4) % _ANGLES] for i in range(_ANGLES)]
_UNIT = 256  # stencil samples per object radius
_SUB = 16  # sub-pixel units per pixel
_DRAWS_BACKGROUND, _DRAWS_OBJECT = 16, 12


@dataclass(frozen=True)
class Scene:
    """A drawn scene of n objects, those behind first.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        masks: bool (n, H, W), the visible part of each object.
        boxes: float32 (n, 4), x1 y1 x2 y2 around the visible part, in pixels, x2 and y2 exclusive.
        shapes: int64 (n,), indices into :data:`SHAPES`.
        colours: int64 (n,), indices into :data:`COLOURS`.
    """

    image: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    shapes: np.ndarray
    colours: np.ndarray

    @property
    def names(self) -> list[str]:
        """'red circle', ... one per object."""
        return [pair_name(s, c) for s, c in zip(self.shapes, self.colours, strict=True)]

    @property
    def caption(self) -> str:
        """'a red circle, a blue square and a green star'; 'an empty background' when there is no object."""
        return list_objects(self.names)


def pair_name(shape: int, colour: int) -> str:
    """Class name of a (shape id, colour id) pair, as 'red circle'."""
    return f'{tuple(COLOURS)[colour]} {SHAPES[shape]}'


def with_article(name: str) -> str:
    """'a red circle', 'an orange star'."""
    return f'an {name}' if name[0] in 'aeiou' else f'a {name}'


def list_objects(names: Sequence[str]) -> str:
    """Caption that lists objects: 'a red circle, a blue square and a green star'."""
    if not names:
        return 'an empty background'
    named = [with_article(n) for n in names]
    return ', '.join(named[:-1]) + ' and ' + named[-1] if len(named) > 1 else named[0]


@functools.cache
def _stencil(shape: int) -> np.ndarray:
    """Filled outline of a shape at angle 0: bool (1024, 1024), the unit disc has radius ``_UNIT`` about the middle."""
    v, u = np.mgrid[-2 * _UNIT : 2 * _UNIT, -2 * _UNIT : 2 * _UNIT] * 2 + 1  # half samples: symmetric about 0
    unit = 2 * _UNIT
    radius2 = u * u + v * v
    name = SHAPES[shape]

    def disc(cx: int, cy: int, r: int) -> np.ndarray:
        """Disc, in thousandths of the radius."""
        du, dv = u * 1000 - cx * unit, v * 1000 - cy * unit
        return du * du + dv * dv <= (r * unit) ** 2

    if name == 'circle':
        return disc(0, 0, 860)
    if name == 'square':
        return np.maximum(abs(u), abs(v)) * 1000 <= 700 * unit
    if name == 'triangle':
        return np.all([n <= 480 * unit for n in _half_planes(u, v, 3)], axis=0)
    if name == 'star':  # inside, or beyond exactly one side of, the inner pentagon
        return sum((n > 300 * unit).astype(np.int8) for n in _half_planes(u, v, 5)) <= 1
    if name == 'cross':
        a, b = np.minimum(abs(u), abs(v)) * 1000, np.maximum(abs(u), abs(v)) * 1000
        return (a <= 270 * unit) & (b <= 900 * unit)
    if name == 'ring':
        return (radius2 * 10000 <= (93 * unit) ** 2) & (radius2 * 10000 >= (50 * unit) ** 2)
    if name == 'crescent':
        return disc(120, 0, 880) & ~disc(480, 0, 720)
    # heart: a square on its corner and a disc on each of its upper sides
    side = 740
    square = (abs(u) + abs(v - unit // 10)) * 1000 <= side * unit
    lobe = 100 - side // 2, side * 707 // 1000
    return square | disc(-side // 2, *lobe) | disc(side // 2, *lobe)


def _half_planes(u: np.ndarray, v: np.ndarray, n: int) -> list[np.ndarray]:
    """Signed distance x 1000 along the n outward normals of a regular polygon."""
    angles = [(_ANGLES * (4 * k + n) // (4 * n)) % _ANGLES for k in range(n)]
    return [(u * _COS[a] + v * _SIN[a]) * 1000 >> 14 for a in angles]


def _coverage(shape: int, angle: int, cx: int, cy: int, r: int, height: int, width: int):
    """Rasterise an object within its own window.

    Args:
        cx: Centre in ``_SUB`` units of a pixel; so are ``cy`` and the radius ``r``.

    Returns:
        (window, coverage): a pair of slices (rows, columns) and int16 (h, w) in 0..4, the number of the pixel's 2 x 2
        samples that lie within the outline.
    """
    x0, x1 = max(0, (cx - r) // _SUB), min(width, (cx + r) // _SUB + 1)
    y0, y1 = max(0, (cy - r) // _SUB), min(height, (cy + r) // _SUB + 1)
    dx = np.arange(2 * x0, 2 * x1, dtype=np.int32) * (_SUB // 2) + (_SUB // 4 - cx)
    dy = np.arange(2 * y0, 2 * y1, dtype=np.int32)[:, None] * (_SUB // 2) + (_SUB // 4 - cy)
    cos, sin = (_COS[angle] * _UNIT * 4) // r, (_SIN[angle] * _UNIT * 4) // r
    u = (dx * cos + dy * sin >> 16) + 2 * _UNIT
    v = (dy * cos - dx * sin >> 16) + 2 * _UNIT
    hit = _stencil(shape).ravel().view(np.int8).take((v << 10) + u)
    rows = hit[::2] + hit[1::2]
    return (slice(y0, y1), slice(x0, x1)), (rows[:, ::2] + rows[:, 1::2]).astype(np.int16)


def _background(d: list[int], height: int, width: int) -> np.ndarray:
    """Textured background of muted colour, int16 (H, W, 3), from 16 numbers below 65536."""
    side = min(height, width)
    grey = 56 + (d[0] * 140 >> 16)
    first = np.array([grey + (v * 41 >> 16) - 20 for v in d[1:4]])
    step = (24 + (d[4] * 36 >> 16)) * (1 if grey < 126 else -1)
    second = np.array([grey + step + (v * 41 >> 16) - 20 for v in d[5:8]])
    kind, angle = d[8] * 5 >> 16, d[9] * _ANGLES >> 16
    period = max(2, side * (16 + (d[10] * 32 >> 16)) // 160)
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    along = x * _COS[angle] + y * _SIN[angle]  # 2^14 per pixel
    across = y * _COS[angle] - x * _SIN[angle]
    if kind == 0:  # a smooth ramp
        mix = (along - along.min()) // (max(1, (int(along.max()) - int(along.min())) >> 8))
    elif kind == 1:  # stripes
        mix = (along // (period << 13) & 1) * 256
    elif kind == 2:  # a chequerboard
        mix = ((along // (period << 14)) + (across // (period << 14)) & 1) * 256
    elif kind == 3:  # waves, from a triangle wave of the two directions
        fold = np.abs((along + (across >> 2)) % (period << 14) - (period << 13))
        mix = fold // max(1, period << 5)
    else:  # plain
        mix = np.zeros((height, width), np.int32)
    mix = mix.astype(np.int16)[..., None]
    return (first.astype(np.int16) + (mix * (second - first).astype(np.int16) >> 8)).astype(np.int16)


def _outline(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a mask within ``width`` of its border."""
    inner = np.pad(mask, 1)
    for _ in range(width):
        core = inner[1:-1, 1:-1] & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner[1:-1, 1:-1] = core
    return mask & ~inner[1:-1, 1:-1]


def single_pair(key: str, pairs: Sequence[tuple[int, int]] = PAIRS) -> tuple[int, int]:
    """(shape id, colour id) of the object that :func:`draw_scene` draws for a key with ``num_objects=(1, 1)``."""
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    draws = rng.randint(0, 1 << 16, _DRAWS_BACKGROUND + _DRAWS_OBJECT, dtype=np.int64)
    return pairs[int(draws[_DRAWS_BACKGROUND]) * len(pairs) >> 16]


def draw_scene(
    key: str,
    size: tuple[int, int],
    num_objects: tuple[int, int] = (1, 4),
    domain: str = 'source',
    pairs: Sequence[tuple[int, int]] = PAIRS,
) -> Scene:
    """Draw the scene of a key.

    The same key, ``num_objects`` and ``pairs`` give the same layout in every domain and at every size.

    Args:
        key: Anything that names the scene.
        size: (height, width) in pixels, each at least 16.
        num_objects: Least and greatest number of objects, both inclusive, up to 16. An object that those before it
            would hide (see :data:`VISIBLE`) is left out, so there may be fewer, but at least one when the least is
            one or more.
        domain: One of :data:`DOMAINS`.
        pairs: (shape id, colour id) of the objects that may appear, each equally likely.

    Raises:
        ConfigError: a size, a range or a domain that does not exist.
    """
    height, width = size
    lo, hi = num_objects
    if min(height, width) < MIN_SIDE:
        raise ConfigError(f'A scene needs at least {MIN_SIDE} px a side, but size is {height} x {width}.')
    if not 0 <= lo <= hi <= MAX_OBJECTS:
        raise ConfigError(f'num_objects must be (least, greatest) within 0..{MAX_OBJECTS}, but it is {num_objects}.')
    if domain not in DOMAINS:
        raise ConfigError(unknown_name(domain, 'domains of Shapes', DOMAINS))

    rng = np.random.RandomState(zlib.crc32(key.encode()))
    draws = rng.randint(0, 1 << 16, _DRAWS_BACKGROUND + _DRAWS_OBJECT * hi, dtype=np.int64).tolist()
    noise = rng.randint(0, 256, (height, width), dtype=np.uint8)

    count = lo + (draws[15] * (hi - lo + 1) >> 16)
    side = min(height, width) * _SUB
    largest = (1720, 1380, 1160, 1020, 930)[min(count, 5) - 1] if count <= 5 else 820  # radius in 1/4096 of the side
    objects, centres = [], []
    for i in range(count):
        d = draws[_DRAWS_BACKGROUND + i * _DRAWS_OBJECT :][:_DRAWS_OBJECT]
        shape, colour = pairs[d[0] * len(pairs) >> 16]
        relative = 450 + (d[1] * (largest - 450) >> 16)
        r = max(4 * _SUB, side * relative >> 12)  # the stencil's margin needs 4 px
        spots = []
        for a, b in ((d[2], d[3]), (d[4], d[5]), (d[6], d[7])):  # take the emptiest of three places
            margin = min(relative * 14, 30000)  # 7/8 of the radius, in 1/65536 of the side
            fx, fy = (margin + (v * ((1 << 16) - 2 * margin) >> 16) for v in (a, b))
            gap = min(((fx - x) ** 2 + (fy - y) ** 2 for x, y in centres), default=0)
            spots.append((gap, fx, fy))
        _, fx, fy = max(spots)
        centres.append((fx, fy))
        light = 218 + (d[9] * 76 >> 16)  # brightness, in 1/256
        shift = [(d[10] >> 5 * k & 31) - 15 for k in range(3)]
        rgb = np.array([min(255, max(0, (int(v) * light >> 8) + s)) for v, s in zip(_RGB[colour], shift, strict=True)])
        cx, cy = (fx * width * _SUB >> 16), (fy * height * _SUB >> 16)
        window, cover = _coverage(shape, d[8] * _ANGLES >> 16, cx, cy, r, height, width)
        objects.append((shape, colour, rgb.astype(np.int16), window, cover))

    # From the front to the back: which objects stay visible.
    taken = np.zeros((height, width), bool)
    kept, masks, boxes = [], [], []
    for item in reversed(objects):
        window, solid = item[3], item[4] >= 2
        seen = solid & ~taken[window]
        area = int(np.count_nonzero(seen))
        if area == 0 or area * 100 < VISIBLE * int(np.count_nonzero(solid)):
            continue
        taken[window] |= solid
        mask = np.zeros((height, width), bool)
        mask[window] = seen
        rows, cols = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        y0, x0 = window[0].start, window[1].start
        kept.append(item)
        masks.append(mask)
        boxes.append((x0 + cols[0], y0 + rows[0], x0 + cols[-1] + 1, y0 + rows[-1] + 1))

    sketch = domain == 'sketch'
    if sketch:
        paper = 230 + (draws[0] * 16 >> 16)
        canvas = np.broadcast_to(np.array([paper, paper - 2, paper - 10], np.int16), (height, width, 3)).copy()
    else:
        canvas = _background(draws, height, width)
    blank = canvas[0, 0].copy()
    for _, _, rgb, window, cover in reversed(kept):
        below = canvas[window]
        if sketch:
            below[cover >= 2] = blank
            below[_outline(cover >= 2, max(1, min(height, width) // 32))] = rgb
        else:
            below += (rgb - below) * cover[..., None] >> 2
    canvas += ((noise & 15).astype(np.int16) - 8)[..., None]
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if domain == 'inverted':
        image = 255 - image
    elif domain == 'noisy':
        grain = rng.randint(0, 64, (2, height, width, 3), dtype=np.uint8).astype(np.int16).sum(0) - 63
        image = np.clip(140 + ((image.astype(np.int16) - 128) >> 1) + grain, 0, 255).astype(np.uint8)
    elif domain == 'night':
        image = (image.astype(np.uint16) * np.array([92, 98, 136], np.uint16) >> 8).astype(np.uint8)

    return Scene(
        image=image,
        masks=np.array(masks[::-1], bool).reshape(-1, height, width),
        boxes=np.array(boxes[::-1], np.float32).reshape(-1, 4),
        shapes=np.array([k[0] for k in kept[::-1]], np.int64),
        colours=np.array([k[1] for k in kept[::-1]], np.int64),
    )
