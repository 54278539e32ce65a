"""Which class is taken for which: the confusion matrix of a test, from which IoU of every class follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from vlm_dense.registry import METRICS


def confusion(predicted: Tensor, truth: Tensor, classes: int, ignored: int = 255) -> Tensor:
    """Number of pixels of each label that got each label.

    Args:
        predicted, truth: Labels of any one shape, integers.
        classes: K.
        ignored: Label of the pixels that do not count.

    Returns:
        int64 (K + 1, K + 1), truth by prediction. The last row and column are labels that are no class: as in mmseg,
        their pixels count for the class of the other side.
    """
    counted = truth != ignored
    pairs = known(truth[counted], classes) * (classes + 1) + known(predicted[counted], classes)
    found = torch.bincount(pairs, minlength=(classes + 1) ** 2)
    return found.view(classes + 1, classes + 1)


def known(labels: Tensor, classes: int) -> Tensor:
    """Labels, int64, with K = ``classes`` instead of those that are no class."""
    return labels.long().masked_fill((labels < 0) | (labels >= classes), classes)


def class_ious(matrix: np.ndarray) -> np.ndarray:
    """IoU (K,) of a matrix as of :func:`confusion`, between 0 and 1; NaN for a class that is neither there nor
    predicted."""
    matrix = np.asarray(matrix, np.float64)
    both = matrix.diagonal()[:-1]
    union = matrix.sum(0)[:-1] + matrix.sum(1)[:-1] - both
    return np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean of :func:`class_ious` in percent, NaN if there is no class."""
    found = class_ious(matrix)
    return float(100 * np.nanmean(found)) if not np.isnan(found).all() else float('nan')


def sparse(matrix: Tensor) -> Tensor:
    """A matrix as int64 (2, n) on the CPU: places and values of what is not 0. An image has few of all pairs of
    classes."""
    flat = matrix.flatten()
    places = flat.nonzero()[:, 0]
    return torch.stack([places, flat[places]]).cpu()


def total(parts: Sequence[Tensor], classes: int) -> np.ndarray:
    """Sum of matrices as of :func:`confusion`, given by :func:`sparse`: int64 (K + 1, K + 1)."""
    every = torch.cat([torch.as_tensor(part) for part in parts], dim=1) if parts else torch.zeros(2, 0).long()
    flat = torch.zeros((classes + 1) ** 2, dtype=torch.long).index_add_(0, every[0], every[1])
    return flat.view(classes + 1, classes + 1).numpy()


@METRICS.register_module()
class ConfusionMatrix(BaseMetric):
    """Keeps the confusion matrix of a test as ``matrix``; reports nothing itself.

    Args:
        ignore_index: Label of pixels that do not count.
        **kwargs: As in mmengine.

    Attributes:
        matrix: As of :func:`confusion`, in the first process, once the test has ended.
    """

    matrix: np.ndarray | None = None

    def __init__(self, ignore_index: int = 255, **kwargs):
        super().__init__(**kwargs)
        self.ignored = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch."""
        for sample in data_samples:
            truth = sample['gt_sem_seg']['data']
            predicted = sample['pred_sem_seg']['data'].to(truth.device)
            self.results.append(sparse(confusion(predicted, truth, len(self.dataset_meta['classes']), self.ignored)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Keep the sum."""
        self.matrix = total(results, len(self.dataset_meta['classes']))
        return {}
