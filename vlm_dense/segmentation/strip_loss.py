"""The losses of mmseg's decode heads without logits at full size.

mmseg enlarges K maps to the size of the labels before a cross-entropy that looks at each pixel once; with its
log-softmax and gradient that makes three tensors of B x K x H x W, for K = 150 and four crops of 512 px of 629 MB each.
Here loss, accuracy and the gradient of the small logits are taken strip by strip, and only this gradient is kept.
"""

from __future__ import annotations

from functools import cache

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor, nn

from vlm_dense.errors import DataError
from vlm_dense.registry import HOOKS
from vlm_dense.segmentation.strips import strip_loss

_EPS = torch.finfo(torch.float32).eps
"""What mmseg adds to the denominators of mean and accuracy."""


def use_strips(model: nn.Module) -> None:
    """Let every decode head of mmseg in ``model`` take its loss strip by strip, where that is exact.

    Each becomes an instance of :class:`StripLossHead` as well as of its own class; its weights, their names and its
    losses stay as they are. The segmentors of this package do so by themselves, :class:`StripLossHook` does it to any
    other model.
    """
    for head in model.modules():
        if isinstance(head, BaseDecodeHead) and not isinstance(head, StripLossHead):
            head.__class__ = _with_strips(type(head))


@cache
def _with_strips(kind: type[BaseDecodeHead]) -> type[BaseDecodeHead]:
    """``kind`` with :class:`StripLossHead` behind it, so that its own ``loss_by_feat``, if it has one, comes first."""
    body = dict(__module__=kind.__module__, __doc__=kind.__doc__, __reduce_ex__=_reduce)
    return type(kind)(kind.__name__, (kind, StripLossHead), body)


def _reduce(head: BaseDecodeHead, protocol: int) -> tuple:
    """How a head with strips is copied and pickled: by its own class, which can be imported."""
    kind = type(head).__bases__[0]
    return _rebuild, (kind,), head.__dict__


def _rebuild(kind: type[BaseDecodeHead]) -> BaseDecodeHead:
    return object.__new__(_with_strips(kind))


@HOOKS.register_module()
class StripLossHook(Hook):
    """:func:`use_strips` for models that are not of this package, as ``mmseg.EncoderDecoder``."""

    def before_train(self, runner: Runner) -> None:
        """Change the heads of the runner's model."""
        use_strips(runner.model)


class StripLossHead(BaseDecodeHead):
    """Mixin of decode heads whose cross-entropy is taken strip by strip, see :func:`use_strips`.

    Names and values of the losses and ``acc_seg`` are mmseg's, for ``CrossEntropyLoss`` with softmax, one or several,
    with ``class_weight``, ``avg_non_ignore``, ``loss_weight`` and reduction ``'mean'`` or ``'sum'``. Logits enter in
    single precision also where mmseg, under autocast, would enlarge them in half. With a sampler or another loss it is
    mmseg's own method, which is said once. Of classes that tie for a pixel the first counts in ``acc_seg``.
    """

    _said = False

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses by name, and ``acc_seg``, of logits (B, K, h, w) and samples with ``gt_sem_seg`` (1, H, W)."""
        obstacle = _obstacle(self)
        if obstacle is not None:
            if not self._said:
                self._said = True
                print_log(f'{type(self).__name__}: logits are enlarged to full size, because {obstacle}.', 'current')
            return super().loss_by_feat(seg_logits, batch_data_samples)
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        valid = labels != self.ignore_index
        losses: dict[str, Tensor] = {}
        correct = None
        for criterion in _criteria(self):
            weight = criterion.class_weight
            weight = None if weight is None else torch.as_tensor(weight, dtype=torch.float32, device=labels.device)
            total, hits = strip_cross_entropy(seg_logits, labels, self.ignore_index, weight, self.align_corners)
            correct = hits if correct is None else correct
            if criterion.reduction == 'mean':
                total = total / (_denominator(labels, valid, weight, criterion.avg_non_ignore) + _EPS)
            name = criterion.loss_name
            losses[name] = losses.get(name, 0) + criterion.loss_weight * total
        losses['acc_seg'] = ((correct + _EPS) * 100 / (valid.sum() + _EPS))[None]
        return losses


def _criteria(head: BaseDecodeHead) -> list[nn.Module]:
    return list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]


def _obstacle(head: BaseDecodeHead) -> str | None:
    """Why the loss of a head cannot be taken strip by strip."""
    if head.sampler is not None:
        return f'{type(head.sampler).__name__} looks at all pixels'
    if head.ignore_index is None:
        return 'ignore_index is None'
    for criterion in _criteria(head):
        if type(criterion) is not CrossEntropyLoss:
            return f'{type(criterion).__name__} is no cross-entropy of mmseg'
        if criterion.use_sigmoid or criterion.use_mask:
            return 'CrossEntropyLoss is set to use_sigmoid or use_mask'
        if criterion.reduction == 'none':
            return "reduction='none' asks for a value a pixel"
        if criterion.class_weight is not None and len(criterion.class_weight) != head.out_channels:
            return f'class_weight has {len(criterion.class_weight)} values for {head.out_channels} classes'
    return None


def _denominator(labels: Tensor, valid: Tensor, class_weight: Tensor | None, avg_non_ignore: bool) -> Tensor | int:
    """What mmseg divides a sum by for a mean: pixels, or their weights.

    With class weights ignored pixels count nowhere; mmseg's own stops there if ``avg_non_ignore`` is set.
    """
    if class_weight is not None:
        return class_weight[labels.masked_fill(~valid, 0)].masked_fill(~valid, 0).sum()
    return valid.sum() if avg_non_ignore else labels.numel()


def strip_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    class_weight: Tensor | None = None,
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sum over pixels of the cross-entropy of bilinearly enlarged logits, and the number of pixels that are right.

    See :func:`vlm_dense.segmentation.strips.strip_loss`.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W), integers; any ratio of the sizes.
        ignore_index: Label of pixels that do not count.
        class_weight: (K,).
        align_corners: Of the enlargement.

    Returns:
        The sum, a scalar, and the number of pixels whose largest logit is that of their label, int64.

    Raises:
        DataError: a label that is no class (on a GPU torch stops by itself).
    """
    classes = logits.shape[1]
    if labels.device.type == 'cpu':
        _check(labels, classes, ignore_index)
    if class_weight is not None:
        class_weight = class_weight.to(logits.device, torch.promote_types(logits.dtype, torch.float32))
    labels = labels.long()[..., None]

    def of_strip(strip: Tensor, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
        return _cross_entropy(strip, labels[images, rows], ignore_index, class_weight)

    return strip_loss(logits, labels.shape[1:3], of_strip, align_corners)


def _check(labels: Tensor, classes: int, ignore_index: int) -> None:
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignore_index)]
    if wrong.numel():
        raise DataError(
            f'A label map holds the label {int(wrong[0])}, but the head has the classes 0 to {classes - 1}, and '
            f'{ignore_index} is ignored. Set num_classes to the number of classes, or mend the labels '
            '(reduce_zero_label=True where 0 means nothing).'
        )


def _cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, class_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sum of the losses and number of hits of a strip; ``logits`` become their gradient.

    Args:
        logits: (b, n, W, K).
        labels: (b, n, W, 1).
        ignore_index, class_weight: See :func:`strip_cross_entropy`.
    """
    ignored = labels == ignore_index
    labels = labels.masked_fill(ignored, 0)
    weight = torch.ones_like(labels, dtype=logits.dtype) if class_weight is None else class_weight[labels]
    weight = weight.masked_fill(ignored, 0)
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    own = logits.gather(-1, labels)
    hits = (_is_best(logits, labels, own) & ~ignored).sum()
    power = logits.exp_()
    total = power.sum(dim=-1, keepdim=True)
    loss = (weight * (total.log() - own)).sum()
    power.mul_(weight / total).scatter_add_(-1, labels, -weight)
    return loss, hits


def _is_best(below: Tensor, labels: Tensor, own: Tensor) -> Tensor:
    """Whether the label is the first of the largest logits, given how far each is below the largest.

    An argmax is the slowest step of a strip on a CPU; there it is taken only where classes tie.
    """
    if below.is_cpu and below.numel() - torch.count_nonzero(below) == own.numel():
        return own == 0
    return below.argmax(dim=-1, keepdim=True) == labels
