"""Where a method loses: what it would reach with true masks or true names, at borders and inside, and calibration."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.registry import METRICS
from vlm_dense.segmentation.confusion import confusion, known, mean_iou, sparse, total
from vlm_dense.segmentation.steps import ClassMaps

BINS = 15
_PARTS = ('oracle_masks', 'oracle_classes', 'boundary', 'interior')


def segments(truth: Tensor, ignored: int = 255) -> Tensor:
    """Number of the segment of each pixel: connected pixels of one label, corners count.

    Args:
        truth: Labels (H, W).
        ignored: Label of pixels without segment.

    Returns:
        int64 (H, W), -1 where ``truth`` is ignored.
    """
    labels, first = truth.cpu().numpy(), 0
    found = np.full(labels.shape, -1, np.int64)
    for label in np.unique(labels[labels != ignored]):
        number, parts = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
        inside = parts > 0
        found[inside] = parts[inside] - 1 + first
        first += number - 1
    return torch.from_numpy(found)


def labels_of_segments(predicted: Tensor, truth: Tensor, classes: int, ignored: int = 255) -> Tensor:
    """Each true segment gets the label that most of its pixels have, of those that tie the first.

    Args:
        predicted, truth: Labels (H, W).
        classes: K; labels that are no class have no vote, and a segment with no others gets K.
        ignored: Label of pixels without segment, which keep theirs.
    """
    part = segments(truth, ignored)
    inside = part >= 0
    if not inside.any():
        return predicted
    pairs = part[inside] * (classes + 1) + known(predicted[inside], classes)
    votes = torch.bincount(pairs, minlength=(int(part.max()) + 1) * (classes + 1))
    votes = votes.view(-1, classes + 1)
    best = torch.where(votes[:, :-1].sum(1) > 0, votes[:, :-1].argmax(1), classes)
    return predicted.masked_scatter(inside, best[part[inside]])


def labels_of_present(predicted: Tensor, scores: Tensor, present: Tensor) -> Tensor:
    """Labels if only the classes in the image had been named.

    A label that the method has decided otherwise than by the largest score, as by a threshold, stays if its class is
    in the image.

    Args:
        predicted: Labels (H, W).
        scores: (K, H, W).
        present: bool (K,).
    """
    kept = present[predicted.clamp(0, len(present) - 1)] & (predicted != scores.argmax(dim=0))
    return torch.where(kept, predicted, scores.masked_fill(~present[:, None, None], -torch.inf).argmax(dim=0))


def boundary(truth: Tensor, width: int, ignored: int = 255) -> Tensor:
    """Pixels (H, W) that have one of another class not farther than ``width`` px in each direction.

    Neither a pixel that is ignored nor one near it is at a boundary by that.
    """
    side, labels = 2 * width + 1, truth.float()[None, None]
    nothing = truth == ignored
    # max_pool2d pads with -inf
    highest = F.max_pool2d(labels.masked_fill(nothing, -torch.inf), side, 1, width)[0, 0]
    lowest = -F.max_pool2d((-labels).masked_fill(nothing, -torch.inf), side, 1, width)[0, 0]
    return (highest != lowest) & ~nothing


def reliability(confidence: Tensor, right: Tensor) -> Tensor:
    """Float64 (``BINS``, 3): number of pixels with a confidence in the bin, sum of their confidences, number right.

    Bins are of equal width, each with its upper end.
    """
    which = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    columns = torch.stack([torch.ones_like(which).double(), confidence.double(), right.double()], dim=-1)
    return torch.zeros(BINS, 3, dtype=torch.float64).index_add_(0, which.flatten(), columns.flatten(0, -2))


def calibration_error(table: Tensor) -> float:
    """Expected calibration error of a sum of :func:`reliability`: the mean over pixels of |accuracy - confidence| of
    their bins, NaN without pixels."""
    number = table[:, 0].sum()
    return float(((table[:, 1] - table[:, 2]).abs().sum() / number).item()) if number else float('nan')


@METRICS.register_module()
class OracleMetric(BaseMetric):
    """What a method would reach with true masks or true names, where it errs, and whether it knows.

    Reports, in percent:

    - ``oracle_masks_mIoU``: each true segment gets the label that most of its pixels have. The rest to 100 is lost to
      names, what it exceeds mIoU by to masks.
    - ``oracle_classes_mIoU``: only the classes in the image are named.
    - ``boundary_mIoU``, ``interior_mIoU``: of the pixels within ``width`` px of another class, and of all others;
      ``boundary_share``: how many there are of the first.
    - ``ECE``: the expected calibration error of the probabilities of the labels, in 15 bins of equal width.

    Samples need ``seg_logits``, so ``model.test_cfg.keep_logits`` is true.

    Args:
        width: Of the boundary in px of the original image, to each side.
        ignore_index: Label of pixels that do not count.
        **kwargs: As in mmengine.

    Raises:
        ConfigError: a width below 1, or samples without scores.
    """

    def __init__(self, width: int = 3, ignore_index: int = 255, **kwargs):
        super().__init__(**kwargs)
        if width < 1:
            raise ConfigError(f'OracleMetric: width must be at least 1 px, found {width}.')
        self.width, self.ignored = width, ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch."""
        classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            if 'seg_logits' not in sample:
                raise ConfigError(
                    'OracleMetric: the samples have labels and no scores. Set model.test_cfg.keep_logits=True, and '
                    'leave out model.variants.'
                )
            truth = sample['gt_sem_seg']['data'].squeeze(0).cpu().long()
            predicted = sample['pred_sem_seg']['data'].squeeze(0).cpu().long()
            scores = _probabilities(sample['seg_logits'])
            counted = truth != self.ignored
            present = torch.zeros(len(scores), dtype=torch.bool)
            present[truth[counted & (truth < len(scores))]] = True
            edge = boundary(truth, self.width, self.ignored)
            seen = dict(
                oracle_masks=(labels_of_segments(predicted, truth, classes, self.ignored), counted),
                oracle_classes=(labels_of_present(predicted, scores, present), counted),
                boundary=(predicted, counted & edge),
                interior=(predicted, counted & ~edge),
            )
            found = {
                name: sparse(confusion(labels[where], truth[where], classes, self.ignored))
                for name, (labels, where) in seen.items()
            }
            own = scores.gather(0, predicted.clamp(0, len(scores) - 1)[None])[0]
            table = reliability(own[counted], (predicted == truth)[counted])
            edges = torch.tensor([int((edge & counted).sum()), int(counted.sum())])
            self.results.append(dict(found, reliability=table, edges=edges))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Percent of the whole test."""
        classes = len(self.dataset_meta['classes'])
        found = {f'{name}_mIoU': mean_iou(total([r[name] for r in results], classes)) for name in _PARTS}
        edges, every = sum(r['edges'] for r in results).tolist()
        found['boundary_share'] = 100 * edges / every if every else float('nan')
        found['ECE'] = 100 * calibration_error(sum(r['reliability'] for r in results))
        return {name: round(value, 2) for name, value in found.items()}


def _probabilities(scores: dict) -> Tensor:
    """Probabilities (K, H, W) of scores, float32, by what they say they are."""
    values = scores['data'].float().cpu()
    if len(values) == 1:  # of a single class its probability, as in mmseg
        return torch.cat([1 - values, values])
    return ClassMaps(values[None], scores.get('scale', 1.0), kind=scores.get('kind', 'logits')).probabilities[0]
