"""Images of label maps, boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK = (255, 255, 255), (30, 30, 30)
_WARNING = (170, 30, 20)
_IGNORED = (0, 0, 0)


def colour(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Label map (H, W) -> RGB uint8 (H, W, 3); labels outside the palette, as 255, are black."""
    table = np.full((256, 3), _IGNORED, np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)[:256]
    return table[np.clip(labels, 0, 255)]


def _fit(image: np.ndarray, side: int, smooth: bool) -> np.ndarray:
    scale = side / max(image.shape[:2])
    size = [max(1, round(s * scale)) for s in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smooth and scale < 1 else cv2.INTER_NEAREST)


def draw_rows(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    legend: Sequence[tuple[str, Sequence[int]]] = (),
    title: str = '',
    tile: int = 256,
    note: str = '',
    most: int | None = None,
) -> Image.Image:
    """One image: a row of tiles per sample, column titles above, class names and their colours below.

    Args:
        rows: RGB uint8 arrays (H, W, 3), of any size; each is fitted into a square of ``tile`` pixels.
        columns: One title a tile.
        legend: (name, RGB) of each class shown.
        title: Line at the top.
        tile: Side of a tile in pixels.
        note: A warning above all, wrapped.
        most: Columns side by side; the next ones stand below all rows of these. Default: all.
    """
    gap, line = 6, 22
    font = ImageFont.load_default(15)
    most = min(most or len(columns), len(columns))
    width = most * (tile + gap) + gap
    boxes, x, y = [], gap, 0  # legend, wrapped
    for name, rgb in legend:
        step = int(font.getlength(name)) + 34
        if x + step > width and x > gap:
            x, y = gap, y + line
        boxes.append((x, y, name, rgb))
        x += step
    head = wrapped(note, font, width - 2 * gap)
    above = line * len(head)
    top = above + (line if title else 0)
    fitted = [[_fit(image, tile, smooth=c == 0) for c, image in enumerate(row)] for row in rows]
    heights = [max(image.shape[0] for image in row) + gap for row in fitted]
    blocks = [slice(start, start + most) for start in range(0, len(columns), most)]
    bottom = top + len(blocks) * (line + sum(heights))
    height = bottom + (y + line + gap if boxes else 0)
    canvas = Image.new('RGB', (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(head):
        draw.text((gap, 3 + i * line), text, _WARNING, font)
    if title:
        draw.text((gap, above + 3), title, _INK, font)
    for block in blocks:
        for c, name in enumerate(columns[block]):
            draw.text((gap + c * (tile + gap), top + 2), name, _INK, font)
        top += line
        for row, height in zip(fitted, heights, strict=True):
            for c, image in enumerate(row[block]):
                canvas.paste(Image.fromarray(image), (gap + c * (tile + gap), top))
            top += height
    for x, y, name, rgb in boxes:
        draw.rectangle((x, bottom + y + 3, x + 15, bottom + y + 18), tuple(rgb), _INK)
        draw.text((x + 20, bottom + y + 2), name, _INK, font)
    return canvas


def draw_captions(
    images: Sequence[np.ndarray], captions: Sequence[str], note: str = '', tile: int = 200
) -> Image.Image:
    """A contact sheet: images in rows of up to six, a line below each.

    Args:
        images: RGB uint8 (H, W, 3), of any size.
        captions: A line each; what is too long is cut.
        note: A text above, wrapped.
        tile: Longer side of an image in pixels.
    """
    gap, line, font = 8, 20, ImageFont.load_default(14)
    columns = min(len(images), 6)
    width = max(columns * (tile + gap) + gap, 2 * tile if note else 0)
    head = wrapped(note, font, width - 2 * gap)
    top = gap + line * len(head)
    rows = -(-len(images) // columns)
    canvas = Image.new('RGB', (width, top + rows * (tile + line + gap)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(head):
        draw.text((gap, gap // 2 + i * line), text, _WARNING, font)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = gap + i % columns * (tile + gap), top + i // columns * (tile + line + gap)
        fitted = _fit(image, tile, smooth=True)
        height, wide = fitted.shape[:2]
        canvas.paste(Image.fromarray(fitted), (x + (tile - wide) // 2, y + (tile - height) // 2))
        while font.getlength(caption) > tile and len(caption) > 4:
            caption = f'{caption[:-4]}...'
        draw.text((x, y + tile + 1), caption, _INK, font)
    return canvas


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The lines of a text that is broken between words at a width in pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f'{lines[-1]} {word}' if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_instances(image: np.ndarray, instances, meta: dict, side: int) -> np.ndarray:
    """Boxes, masks, names and scores on an image, in the colours of the classes.

    Labels avoid each other where there is room, those of small objects over those of large ones.

    Args:
        image: RGB uint8 (H, W, 3).
        instances: mmengine's ``InstanceData`` in pixels of the image: ``bboxes``, ``labels``, and ``masks`` (mmdet's,
            or a tensor (n, H, W)) and ``scores`` if there are some.
        meta: With ``classes`` and ``palette``.
        side: Longer side in pixels of the result; small images are enlarged, so that names can be read.
    """
    height, width = image.shape[:2]
    image = np.ascontiguousarray(_fit(image, side, smooth=True))
    scale = image.shape[1] / width, image.shape[0] / height
    boxes = instances.bboxes
    boxes = (boxes.tensor if hasattr(boxes, 'tensor') else boxes).cpu().float().numpy() * [*scale, *scale]
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) if len(boxes) else []
    labels = instances.labels.cpu().tolist()
    colours = [tuple(int(c) for c in meta['palette'][label]) for label in labels]
    if 'masks' in instances:
        masks = instances.masks
        masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks.cpu().numpy()
        for i in order:
            mask = cv2.resize(masks[i].astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
            shade = image[mask].mean(
                axis=1, keepdims=True
            )  # without colours of its own, which would mix with the class's
            image[mask] = (shade * 0.35 + np.array(colours[i]) * 0.65).astype(np.uint8)
    canvas = Image.fromarray(image)
    draw, font, taken = ImageDraw.Draw(canvas), ImageFont.load_default(13), []
    for i in order:
        box = np.round(boxes[i])
        draw.rectangle((*np.minimum(box[:2], box[2:]), *np.maximum(box[:2], box[2:])), outline=colours[i], width=2)
    for i in order:
        text = str(meta['classes'][labels[i]])
        text += f' {instances.scores[i].item():.0%}' if 'scores' in instances else ''
        place = _free_place(boxes[i], (font.getlength(text) + 6, 17), canvas.size, taken)
        taken.append(place)
        draw.rectangle(place, colours[i])
        draw.text((place[0] + 3, place[1]), text, _ink_on(colours[i]), font)
    return np.asarray(canvas)


def _free_place(box: np.ndarray, size: tuple[float, float], canvas: tuple[int, int], taken: Sequence) -> tuple:
    """(x1, y1, x2, y2) of a label at a box: above, inside, below, then further down, inside the image and apart from
    others; above if there is no room."""
    (x1, y1, x2, y2), (width, height) = box, size
    xs = (x1, x2 - width)
    ys = (y1 - height, y1, y2, y2 - height, *(y1 + k * height for k in range(1, 10)))
    places = [(x, y, x + width, y + height) for y in ys for x in xs]

    def inside(place) -> tuple:
        left = min(max(place[0], 0), max(canvas[0] - 1 - width, 0))
        top = min(max(place[1], 0), max(canvas[1] - 1 - height, 0))
        return left, top, left + width, top + height

    def overlap(place) -> float:
        shared = ((min(place[2], b[2]) - max(place[0], b[0]), min(place[3], b[3]) - max(place[1], b[1])) for b in taken)
        return sum(w * h for w, h in shared if w > 0 and h > 0)

    return min(map(inside, places), key=overlap)


def _ink_on(colour: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return _INK if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else _PAPER
