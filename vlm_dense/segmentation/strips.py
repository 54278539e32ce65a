"""Bilinear enlargement of maps, a few rows at a time, and the losses of mmseg's decode heads by it.

Maps with one channel a class are small when they leave a head and very large at the size of the image, where a loss or
an argmax reads each pixel once. Here one strip of rows at a time is upsampled, used and discarded. Strips are channels
last, with several times faster operations over classes and interpolation on a CPU.

mmseg enlarges K maps to the size of the labels before a cross-entropy that looks at each pixel once; with its
log-softmax and gradient that makes three tensors of B x K x H x W, for K = 150 and four crops of 512 px of 629 MB each.
Here loss, accuracy and the gradient of the small logits are taken strip by strip, and only this gradient is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses.cross_entropy_loss import CrossEntropyLoss
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vlm_dense.errors import DataError
from vlm_dense.registry import HOOKS

_ELEMENTS = {'cpu': 2**19, 'other': 2**24}
"""Elements of a strip: what a core's cache holds, and what keeps a GPU busy."""
_EPS = torch.finfo(torch.float32).eps
"""Epsilon of mmseg in the denominators of mean and accuracy."""

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
        """Rows of the small map that the large map's ``rows`` are interpolated from."""
        lower, upper = self._bounds
        return slice(lower[rows.start], upper[rows.stop - 1] + 1)

    def __call__(self, block: Tensor, rows: slice) -> Tensor:
        """The large map's ``rows``, (B, n, W, K).

        Args:
            block: Rows ``source(rows)`` of the small map, (B, m, w, K).
            rows: Slice with start and stop inside of the large map.
        """
        first = self._bounds[0][rows.start]
        lower, upper, share = self._lower[rows] - first, self._upper[rows] - first, self._share[rows].to(block.dtype)
        narrow = torch.lerp(block.index_select(1, lower), block.index_select(1, upper), share)
        size = narrow.shape[1], self.large_width
        wide = F.interpolate(narrow.movedim(-1, 1), size, mode='bilinear', align_corners=self.align_corners)
        return wide.movedim(1, -1)

    def transposed(self, grad: Tensor, rows: slice) -> Tensor:
        """The gradient of ``block`` (B, m, w, K) that belongs to that of the strip, ``grad`` (B, n, W, K)."""
        source, share = self.source(rows), self._share[rows].to(grad.dtype)
        lower, upper = self._lower[rows] - source.start, self._upper[rows] - source.start
        batch, height, _, channels = grad.shape
        wide, small = (height, self.large_width), (batch, channels, height, self.width)
        narrow = torch.ops.aten.upsample_bilinear2d_backward(grad.movedim(-1, 1), wide, small, self.align_corners)
        narrow = narrow.movedim(1, -1)
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
        return grad.to(ctx.dtype).movedim(-1, 1), None, None, None, None


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
    return maps.movedim(1, -1).to(torch.promote_types(maps.dtype, torch.float32)).contiguous()


# --- decode heads of mmseg --------------------------------------------------------------------------------------------


def use_strips(model: nn.Module) -> None:
    """Make the decode heads of mmseg in ``model`` compute their loss strip by strip, where that is exact.

    Heads with a ``loss_by_feat`` of their own keep it; of all others it becomes :func:`loss_by_strips`. Weights, their
    names and the losses stay as they are. The segmentors of this package do so by themselves, :class:`StripLossHook`
    does it to any other model.
    """
    for head in model.modules():
        if isinstance(head, BaseDecodeHead) and type(head).loss_by_feat is BaseDecodeHead.loss_by_feat:
            head.loss_by_feat = partial(loss_by_strips, head)


@HOOKS.register_module()
class StripLossHook(Hook):
    """:func:`use_strips` for models that are not of this package, as ``mmseg.EncoderDecoder``."""

    def before_train(self, runner: Runner) -> None:
        """Change the heads of the runner's model."""
        use_strips(runner.model)


def loss_by_strips(head: BaseDecodeHead, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
    """Losses by name, and ``acc_seg``, of logits (B, K, h, w) and samples with ``gt_sem_seg`` (1, H, W).

    Names and values are mmseg's, for ``CrossEntropyLoss`` with softmax, one or several, with ``class_weight``,
    ``avg_non_ignore``, ``loss_weight`` and reduction ``'mean'`` or ``'sum'``. Logits enter in single precision also
    where mmseg, under autocast, would enlarge them in half. With a sampler or another loss it is mmseg's own method,
    which is said once. Of classes that tie for a pixel the first counts in ``acc_seg``.
    """
    criteria = list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
    obstacle = _obstacle(head, criteria)
    if obstacle is not None:
        if not getattr(head, '_enlargement_said', False):
            head._enlargement_said = True
            print_log(f'{type(head).__name__}: logits are enlarged to full size, because {obstacle}.', 'current')
        return BaseDecodeHead.loss_by_feat(head, seg_logits, batch_data_samples)
    labels = head._stack_batch_gt(batch_data_samples).squeeze(1)
    valid = labels != head.ignore_index
    losses: dict[str, Tensor] = {}
    correct = None
    for criterion in criteria:
        weight = criterion.class_weight
        weight = None if weight is None else torch.as_tensor(weight, dtype=torch.float32, device=labels.device)
        total, hits = strip_cross_entropy(seg_logits, labels, head.ignore_index, weight, head.align_corners)
        correct = hits if correct is None else correct
        if criterion.reduction == 'mean':
            # with class weights ignored pixels count nowhere; mmseg's own stops there if avg_non_ignore is set
            number = valid.sum() if criterion.avg_non_ignore else labels.numel()
            if weight is not None:
                number = weight[labels.masked_fill(~valid, 0)].masked_fill(~valid, 0).sum()
            total = total / (number + _EPS)
        name = criterion.loss_name
        losses[name] = losses.get(name, 0) + criterion.loss_weight * total
    losses['acc_seg'] = ((correct + _EPS) * 100 / (valid.sum() + _EPS))[None]
    return losses


def _obstacle(head: BaseDecodeHead, criteria: Sequence[nn.Module]) -> str | None:
    """Why the loss of a head cannot be taken strip by strip."""
    if head.sampler is not None:
        return f'{type(head.sampler).__name__} looks at all pixels'
    if head.ignore_index is None:
        return 'ignore_index is None'
    for criterion in criteria:
        if type(criterion) is not CrossEntropyLoss:
            return f'{type(criterion).__name__} is no cross-entropy of mmseg'
        if criterion.use_sigmoid or criterion.use_mask:
            return 'CrossEntropyLoss is set to use_sigmoid or use_mask'
        if criterion.reduction == 'none':
            return "reduction='none' asks for a value a pixel"
        if criterion.class_weight is not None and len(criterion.class_weight) != head.out_channels:
            return f'class_weight has {len(criterion.class_weight)} values for {head.out_channels} classes'
    return None


def strip_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    class_weight: Tensor | None = None,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sum over pixels of the cross-entropy of bilinearly enlarged logits, and the number of pixels that are right.

    See :func:`strip_loss`.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W), integers; any ratio of the sizes.
        ignore_index: Label of pixels that do not count.
        class_weight: (K,).
        align_corners: Of the enlargement.

    Returns:
        The sum, a scalar, and the number of pixels with their label's logit the largest, int64.

    Raises:
        DataError: a label that is no class (on a GPU torch stops by itself).
    """
    check_labels(labels, logits.shape[1], ignore_index)
    if class_weight is not None:
        class_weight = class_weight.to(logits.device, torch.promote_types(logits.dtype, torch.float32))
    labels = labels.long()[..., None]

    def of_strip(strip: Tensor, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
        """Sum of the losses and number of hits of a strip (b, n, W, K), which becomes its gradient."""
        ignored = labels[images, rows] == ignore_index
        target = labels[images, rows].masked_fill(ignored, 0)
        weight = torch.ones_like(target, dtype=strip.dtype) if class_weight is None else class_weight[target]
        weight = weight.masked_fill(ignored, 0)
        strip.sub_(strip.amax(dim=-1, keepdim=True))
        own = strip.gather(-1, target)
        if strip.is_cpu and strip.numel() - torch.count_nonzero(strip) == own.numel():
            best = own == 0  # an argmax is the slowest step on a CPU; it is needed only where classes tie
        else:
            best = strip.argmax(dim=-1, keepdim=True) == target
        hits = (best & ~ignored).sum()
        power = strip.exp_()
        total = power.sum(dim=-1, keepdim=True)
        loss = (weight * (total.log() - own)).sum()
        power.mul_(weight / total).scatter_add_(-1, target, -weight)
        return loss, hits

    return strip_loss(logits, labels.shape[1:3], of_strip, align_corners)


def strip_binary_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Sum over pixels and classes of the binary cross-entropy of bilinearly enlarged logits, and the right pixels.

    Each class is told from all else, see :func:`strip_loss`. Pixels that are ignored have no class, and count.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W), integers; any ratio of the sizes.
        ignore_index: Label of pixels of no class.
        align_corners: Of the enlargement.

    Returns:
        The sum, a scalar, and the number of pixels with their label's logit the largest, int64.

    Raises:
        DataError: as :func:`strip_cross_entropy`.
    """
    check_labels(labels, logits.shape[1], ignore_index)
    labels = labels.long()[..., None]

    def of_strip(strip: Tensor, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
        """Sum of the losses and number of hits of a strip (b, n, W, K), which becomes its gradient."""
        valid = labels[images, rows] != ignore_index
        target = labels[images, rows].masked_fill(~valid, 0)
        own = strip.gather(-1, target)
        hits = ((own == strip.amax(dim=-1, keepdim=True)) & valid).sum()
        loss = F.softplus(strip).sum() - (own * valid).sum()
        strip.sigmoid_().scatter_add_(-1, target, -valid.to(strip.dtype))
        return loss, hits

    return strip_loss(logits, labels.shape[1:3], of_strip, align_corners)


def check_labels(labels: Tensor, classes: int, ignore_index: int) -> None:
    """Refuse labels that are no class (on a GPU torch stops by itself).

    Raises:
        DataError: names such a label.
    """
    if labels.device.type != 'cpu':
        return
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignore_index)]
    if wrong.numel():
        raise DataError(
            f'A label map holds the label {int(wrong[0])}, but the head has the classes 0 to {classes - 1}, and '
            f'{ignore_index} is ignored. Set num_classes to the number of classes, or correct the labels '
            '(reduce_zero_label=True where 0 means nothing).'
        )
