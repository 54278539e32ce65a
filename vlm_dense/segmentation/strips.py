"""Bilinear enlargement of maps, a few rows at a time.

Maps with one channel a class are small when they leave a head and very large at the size of the picture, where a loss
or an argmax looks at each pixel once. Here a strip of rows is enlarged, used and forgotten. Strips hold channels last,
in which the operations over classes and the interpolation itself run several times faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_ELEMENTS = {'cpu': 2**19, 'other': 2**24}
"""Elements of a strip: what a core's cache holds, and what keeps a GPU busy."""

Size = tuple[int, int]


class Enlargement:
    """Bilinear interpolation from (h, w) to (H, W), a strip of rows at a time; the same as ``F.interpolate``.

    Sizes may shrink as well. Works on maps with channels last.

    Args:
        small: (h, w).
        large: (H, W).
        align_corners: As in ``F.interpolate``.
        device: Where the maps are.
    """

    def __init__(self, small: Size, large: Size, align_corners: bool = False, device: torch.device | str = 'cpu'):
        (height, self.width), (large_height, self.large_width) = small, large
        self.align_corners = align_corners
        unit = torch.eye(height)[None, None]
        weights = F.interpolate(unit, (large_height, height), mode='bilinear', align_corners=align_corners)[0, 0]
        lower = (weights > 0).byte().argmax(dim=1)
        upper = (lower + 1).clamp(max=height - 1)
        self._bounds = lower.tolist(), upper.tolist()
        self._lower, self._upper = lower.to(device), upper.to(device)
        self._share = (1 - weights.gather(1, lower[:, None])).to(device)[..., None]  # of the upper row

    def source(self, rows: slice) -> slice:
        """Rows of the small map that the large map's ``rows`` are made of."""
        lower, upper = self._bounds
        return slice(lower[rows.start], upper[rows.stop - 1] + 1)

    def _taps(self, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        first = self._bounds[0][rows.start]
        return self._lower[rows] - first, self._upper[rows] - first, self._share[rows].to(dtype)

    def __call__(self, block: Tensor, rows: slice) -> Tensor:
        """The large map's ``rows``, (B, n, W, K).

        Args:
            block: Rows ``source(rows)`` of the small map, (B, m, w, K).
            rows: Slice with start and stop inside of the large map.
        """
        lower, upper, share = self._taps(rows, block.dtype)
        narrow = torch.lerp(block.index_select(1, lower), block.index_select(1, upper), share)
        size = narrow.shape[1], self.large_width
        wide = F.interpolate(_first(narrow), size, mode='bilinear', align_corners=self.align_corners)
        return _last(wide)

    def transposed(self, grad: Tensor, rows: slice) -> Tensor:
        """The gradient of ``block`` (B, m, w, K) that belongs to that of the strip, ``grad`` (B, n, W, K)."""
        lower, upper, share = self._taps(rows, grad.dtype)
        batch, height, _, channels = grad.shape
        narrow = _last(
            torch.ops.aten.upsample_bilinear2d_backward(
                _first(grad),
                (height, self.large_width),
                (batch, channels, height, self.width),
                self.align_corners,
            )
        )
        source = self.source(rows)
        block = grad.new_zeros((batch, source.stop - source.start, self.width, channels))
        above = narrow * share
        return block.index_add_(1, upper, above).index_add_(1, lower, narrow - above)


def strips(batch: int, size: Size, channels: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Cut a batch of maps into parts small enough to be at full size: (images, rows), which cover it in order.

    Args:
        batch: Number of maps.
        size: (H, W) of the maps.
        channels: Their channels.
        device: Where they are.
    """
    height, width = size
    rows = max(_ELEMENTS['cpu' if device.type == 'cpu' else 'other'] // (width * channels), 1)
    images, rows = max(rows // height, 1), min(rows, height)
    for image in range(0, batch, images):
        for row in range(0, height, rows):
            yield slice(image, min(image + images, batch)), slice(row, min(row + rows, height))


@torch.compiler.disable
def strip_loss(
    logits: Tensor,
    size: Size,
    of_strip: Callable[[Tensor, slice, slice], tuple[Tensor, Tensor]],
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """A loss that is a sum over pixels, of bilinearly enlarged logits that are never whole.

    The gradient is computed together with the loss and kept at the size of ``logits``; a backward pass multiplies it by
    what comes in, in single precision. So a loss may be scaled, accumulated and passed backward again, but not
    differentiated twice.

    Args:
        logits: (B, K, h, w), any floating dtype, taken as float32 (float64 stays), with autocast off.
        size: (H, W) of the loss.
        of_strip: Takes a strip (b, n, W, K), the images and the rows that it shows, and returns the sum of its losses
            and any count. It writes the gradient of the sum into the strip.
        align_corners: Of the enlargement.

    Returns:
        The sums of the losses, with gradient, and of the counts.
    """
    learns = torch.is_grad_enabled() and logits.requires_grad
    return _StripLoss.apply(logits, tuple(size), of_strip, align_corners, learns)


class _StripLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, size, of_strip, align_corners, learns):
        small = channels_last(logits)
        enlargement = Enlargement(small.shape[1:3], size, align_corners, small.device)
        kept = torch.zeros_like(small) if learns else None
        losses, counts = [], []
        with torch.autocast(logits.device.type, enabled=False):
            for images, rows in strips(len(small), size, small.shape[3], small.device):
                source = enlargement.source(rows)
                strip = enlargement(small[images, source], rows)
                loss, count = of_strip(strip, images, rows)
                losses.append(loss)
                counts.append(count)
                if learns:
                    kept[images, source] += enlargement.transposed(strip, rows)
        if learns:
            ctx.save_for_backward(kept)
            ctx.dtype = logits.dtype
        count = torch.stack(counts).sum()
        ctx.mark_non_differentiable(count)
        return torch.stack(losses).sum(), count

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, _):
        (kept,) = ctx.saved_tensors
        grad = kept * grad_loss  # in single precision: a scaled loss lifts gradients that half precision would lose
        return _first(grad.to(ctx.dtype)), None, None, None, None


def enlarged_max(maps: Tensor, size: Size, align_corners: bool = False) -> tuple[Tensor, Tensor]:
    """Largest value and its channel at each place of bilinearly enlarged maps.

    Args:
        maps: (B, K, h, w), taken as float32 (float64 stays).
        size: (H, W).
        align_corners: Of the enlargement.

    Returns:
        Values (B, H, W), and channels (B, H, W), int64, the first of those that tie.
    """
    small = channels_last(maps)
    enlargement = Enlargement(small.shape[1:3], size, align_corners, small.device)
    values = small.new_empty((len(small), *size))
    channels = torch.empty_like(values, dtype=torch.int64)
    for images, rows in strips(len(small), size, small.shape[3], small.device):
        strip = enlargement(small[images, enlargement.source(rows)], rows)
        values[images, rows], channels[images, rows] = strip.max(dim=-1)
    return values, channels


def channels_last(maps: Tensor) -> Tensor:
    """Maps (B, K, h, w) as (B, h, w, K), contiguous, in float32 or float64."""
    return _last(maps).to(torch.promote_types(maps.dtype, torch.float32)).contiguous()


def _first(maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)
