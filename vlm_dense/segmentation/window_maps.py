"""Maps of an image that came in windows: merged as a whole, or read a few rows at a time in the original size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.segmentation.strips import Enlargement, Size, channels_last, strips

Box = tuple[int, int, int, int]
"""Window (y1, y2, x1, x2) of an image."""


class WindowMap(NamedTuple):
    """A window and its map (n, h, w) as the network gave it."""

    box: Box
    values: Tensor


def independent(maps: Tensor, dim: int) -> Tensor:
    """Probabilities of classes that do not exclude each other, of logits in any shape; an activation of windows."""
    return maps.sigmoid()


ACTIVATIONS = dict(sigmoid=independent)
"""Activations of windows by the names that exported files have for them."""


class WindowMaps:
    """Maps of an image, averaged where its windows overlap; they stay as small as they came until they are read.

    Args:
        align_corners: Of every enlargement.
        whole: The only window is the image itself because it was segmented in one piece.
        activation: Applied to the map of a window at the size of the window, before it is averaged with others; a
            function of it and the dimension of its channels.

    Attributes:
        overview: The map of the whole image at another size, which has half the weight everywhere; ``None`` if there
            is none.
    """

    def __init__(
        self,
        align_corners: bool = False,
        whole: bool = False,
        activation: Callable[[Tensor, int], Tensor] | None = None,
    ):
        self.align_corners = align_corners
        self.whole = whole
        self.activation = activation
        self.overview: WindowMaps | None = None
        self.windows: list[WindowMap] = []
        self._enlarged: list[tuple[Box, Tensor, Enlargement]] = []

    def add(self, box: Box, values: Tensor) -> None:
        """Add a window's map (n, h, w); the last window ends in the lower right corner of the image."""
        self.windows.append(WindowMap(box, values))

    def add_overview(self, size: Size, values: Tensor) -> None:
        """Add the map (n, h, w) of the whole image, segmented at ``size``."""
        self.overview = WindowMaps(self.align_corners, activation=self.activation)
        self.overview.add((0, size[0], 0, size[1]), values)

    @property
    def size(self) -> Size:
        """(H, W) of the image."""
        _, bottom, _, right = self.windows[-1].box
        return bottom, right

    @property
    def channels(self) -> int:
        """n."""
        return len(self.windows[0].values)

    def each(self, change: Callable[[Tensor], Tensor]) -> WindowMaps:
        """The same windows with ``change`` applied to the map (n, h, w) of each."""
        changed = WindowMaps(self.align_corners, self.whole, self.activation)
        for box, values in self.windows:
            changed.add(box, change(values))
        if self.overview is not None:
            changed.overview = self.overview.each(change)
        return changed

    def split(self, counts: Sequence[int]) -> list[WindowMaps]:
        """Maps of consecutive groups of channels."""
        ends = torch.tensor(counts).cumsum(0).tolist()
        return [self.each(lambda x, s=slice(end - count, end): x[s]) for end, count in zip(ends, counts, strict=True)]

    def stretched(self, size: Size) -> WindowMaps:
        """The map of an only window as that of an image of another size."""
        found = WindowMaps(self.align_corners, self.whole, self.activation)
        found.add((0, size[0], 0, size[1]), self.windows[0].values)
        return found

    def merged(self, channels: slice = slice(None)) -> Tensor:
        """Maps (n, H, W) of some channels at the size of the image."""
        if self.overview is not None:
            whole = self.overview.merged(channels)[None]
            whole = F.interpolate(whole, self.size, mode='bilinear', align_corners=self.align_corners)[0]
            return self._merged(channels).add_(whole).div_(2)
        return self._merged(channels)

    def _merged(self, channels: slice) -> Tensor:
        if len(self.windows) == 1:
            return self._enlarge(self.windows[0].values[channels], self.size)
        total = counts = None
        for (y1, y2, x1, x2), small in self.windows:  # one by one: full-size maps are the largest tensors of a test
            maps = self._enlarge(small[channels], (y2 - y1, x2 - x1))
            if total is None:
                total, counts = (maps.new_zeros((n, *self.size)) for n in (len(maps), 1))
            total[:, y1:y2, x1:x2] += maps
            counts[:, y1:y2, x1:x2] += 1
        return total.div_(counts)

    def _enlarge(self, maps: Tensor, size: Size) -> Tensor:
        maps = F.interpolate(maps[None], size, mode='bilinear', align_corners=self.align_corners)[0]
        return maps if self.activation is None else self.activation(maps, 0)

    def rows(self, rows: slice) -> Tensor:
        """Some rows of the merged maps, channels last, (m, W, n), float32 or float64."""
        if self.overview is not None:
            whole = StripMaps(self.overview, dict(ori_shape=self.size)).rows(rows)
            return (self._rows(rows) + whole) / 2
        return self._rows(rows)

    def _rows(self, rows: slice) -> Tensor:
        activation = self.activation or (lambda maps, dim: maps)
        if not self._enlarged:
            for box, values in self.windows:
                small, size = channels_last(values[None]), (box[1] - box[0], box[3] - box[2])
                enlargement = Enlargement(small.shape[1:3], size, self.align_corners, small.device)
                self._enlarged.append((box, small, enlargement))
        if len(self._enlarged) == 1:
            _, small, enlargement = self._enlarged[0]
            return activation(enlargement(small[:, enlargement.source(rows)], rows)[0], -1)
        number, small = rows.stop - rows.start, self._enlarged[0][1]
        total, counts = (small.new_zeros((number, self.size[1], n)) for n in (self.channels, 1))
        for (y1, y2, x1, x2), small, enlargement in self._enlarged:
            start, stop = max(rows.start, y1), min(rows.stop, y2)
            if start >= stop:
                continue
            inside, own = slice(start - rows.start, stop - rows.start), slice(start - y1, stop - y1)
            total[inside, x1:x2] += activation(enlargement(small[:, enlargement.source(own)], own)[0], -1)
            counts[inside, x1:x2] += 1
        return total.div_(counts)


def is_plain(meta: dict) -> bool:
    """Whether an image was neither flipped nor padded."""
    return not meta.get('flip') and 'padding_size' not in meta and 'img_padding_size' not in meta


def _padding(meta: dict) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    return meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))


def original_size(maps: Tensor, meta: dict, align_corners: bool = False) -> Tensor:
    """Maps (n, H, W) without padding, not flipped and in original size, as mmseg does it.

    Args:
        maps: At the size of the image that the network saw.
        meta: Metainfo of the sample: ``ori_shape``, ``flip``, ``flip_direction``, ``img_padding_size``,
            ``padding_size``.
        align_corners: Of the interpolation.
    """
    left, right, top, bottom = _padding(meta)
    maps = maps[:, top : maps.shape[1] - bottom, left : maps.shape[2] - right]
    if meta.get('flip'):
        maps = maps.flip(2 if meta['flip_direction'] == 'horizontal' else 1)
    size = tuple(meta.get('ori_shape', maps.shape[1:])[:2])
    if size == tuple(maps.shape[1:]):
        return maps
    return F.interpolate(maps[None], size, mode='bilinear', align_corners=align_corners)[0]


class StripMaps:
    """Result of :func:`original_size` for merged maps, a few rows at a time.

    Args:
        maps: The windows.
        meta: As of :func:`original_size`.
        change: Applied to rows (m, W, n) at the size of the image, before they are brought to the original size.

    Attributes:
        size: (H, W), the original size.
        device: Where the maps are.
    """

    def __init__(self, maps: WindowMaps, meta: dict, change: Callable[[Tensor], Tensor] | None = None):
        self._maps, self._change = maps, change
        self.device = maps.windows[0].values.device
        left, right, top, bottom = _padding(meta)
        self._top, self._left = top, left
        self._inner = inner = maps.size[0] - top - bottom, maps.size[1] - left - right
        self._flip = meta.get('flip_direction') if meta.get('flip') else None
        self.size = tuple(meta.get('ori_shape', inner)[:2])
        self._to_original = None
        if self.size != inner:
            self._to_original = Enlargement(inner, self.size, maps.align_corners, self.device)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their maps (m, W, n), from top to bottom."""
        for _, rows in strips(1, self.size, self._maps.channels, self.device):
            yield rows, self.rows(rows)

    def rows(self, rows: slice) -> Tensor:
        """Maps (m, W, n) of some rows."""
        if self._to_original is None:
            return self._inner_rows(rows)
        return self._to_original(self._inner_rows(self._to_original.source(rows))[None], rows)[0]

    def _inner_rows(self, rows: slice) -> Tensor:
        """Rows of the image without padding, not flipped."""
        height, width = self._inner
        if self._flip == 'vertical':
            rows = slice(height - rows.stop, height - rows.start)
        maps = self._maps.rows(slice(self._top + rows.start, self._top + rows.stop))
        maps = maps[:, self._left : self._left + width]
        if self._change is not None:
            maps = self._change(maps)
        return maps if self._flip is None else maps.flip(1 if self._flip == 'horizontal' else 0)
