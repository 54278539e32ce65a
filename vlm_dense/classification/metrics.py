"""Metrics of image classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of images with their class among the k greatest scores, in percent.

    Gives ``top1``, ``top5``, ... and ``mean_class``, the mean over classes of the top-1 accuracy of their images;
    classes without images are left out. Of equal scores the first class counts as greater, and a score that is not a
    number is greater than any, so that it is never counted as right.

    Args:
        topk: Each k.
        collect_device, prefix: As in mmengine.

    Examples:
        >>> import torch
        >>> metric = Accuracy(prefix='test')
        >>> metric.process(None, [dict(pred_scores=torch.tensor([1.0, 3.0]), gt_label=1)])
        >>> metric.evaluate(1)
        {'test/top1': 100.0, 'test/mean_class': 100.0}
    """

    def __init__(self, topk: Sequence[int] = (1,), collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)
        if not topk or min(topk) < 1:
            raise ConfigError(f'Accuracy: topk must hold numbers from 1, found {tuple(topk)}.')
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the label of each image and how many classes come before it."""
        for sample in data_samples:
            scores, label = sample['pred_scores'].cpu(), int(sample['gt_label'])
            if len(scores) <= max(self.topk) and max(self.topk) > 1:
                raise ConfigError(
                    f'Accuracy: top-{max(self.topk)} of {len(scores)} classes is always right. Lower topk.'
                )
            greater = ~(scores <= scores[label])
            greater[:label] |= scores[:label] == scores[label]
            self.results.append((label, int(greater.sum())))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Percentages of all images."""
        labels, ranks = np.array(results).T
        metrics = {f'top{k}': 100 * float((ranks < k).mean()) for k in self.topk}
        metrics['mean_class'] = 100 * float(np.mean([(ranks[labels == c] == 0).mean() for c in np.unique(labels)]))
        return metrics


@METRICS.register_module()
class MultiLabelMetric(BaseMetric):
    """Metrics of images that may show several classes, in percent.

    Labels that are unknown (-1) count nowhere. For a class, tp, fp and fn are numbers of images with a score that is,
    or is not, above ``threshold``.

    - ``mAP``: mean over classes with a shown image of the average precision, the mean over their images of the
      precision at the score of that image; equal scores count together.
    - ``CF1``: harmonic mean of the mean over classes of tp / (tp + fp) and that of tp / (tp + fn); 0 for 0 / 0. Recall
      is averaged over classes with a shown image.
    - ``OF1``: the same of the sums over classes.
    - ``F1@k``: as ``OF1``, but the k greatest scores of each image are above the threshold; of equal scores the first.

    A score that is not a number is never right.

    Args:
        threshold: In logits: 0 is a probability of 1/2, and right for heads that score a class against its absence.
        topk: The k of ``F1@k``.
        collect_device, prefix: As in mmengine.

    Examples:
        >>> import torch
        >>> metric = MultiLabelMetric(topk=1, prefix='test')
        >>> sample = dict(pred_scores=torch.tensor([2.0, -1.0, 0.5]), gt_labels=torch.tensor([1, 0, -1]))
        >>> metric.process(None, [sample])
        >>> metric.evaluate(1)['test/mAP']
        100.0
    """

    def __init__(self, threshold: float = 0.0, topk: int = 3, collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)
        if topk < 1:
            raise ConfigError(f'MultiLabelMetric: topk must be at least 1, found {topk}.')
        self.threshold, self.topk = threshold, topk

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep scores and labels (K,) of each image."""
        for sample in data_samples:
            scores, labels = sample['pred_scores'].cpu().float().numpy(), sample['gt_labels'].cpu().numpy()
            if scores.shape != labels.shape or not np.isin(labels, (-1, 0, 1)).all():
                raise DataError(
                    f'{sample.get("img_path", "An image")} has {labels.shape} labels of {sorted(set(labels.tolist()))} '
                    f'for {scores.shape} scores; expected 1, 0 or -1 for each class.'
                )
            self.results.append((scores, labels))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Percentages of all images."""
        scores, labels = (np.stack(column).astype(np.float64) for column in zip(*results, strict=True))
        shown, known = labels == 1, labels >= 0
        scores = _without_nan(scores, shown)
        above = (scores > self.threshold) & known
        ranks = np.argsort(np.argsort(-np.where(known, scores, -np.inf), axis=1, kind='stable'), axis=1)
        best = (ranks < self.topk) & known
        return {
            'mAP': 100 * mean_average_precision(scores, labels),
            'CF1': _class_f1(above, shown, known),
            'OF1': _overall_f1(above, shown, known),
            f'F1@{self.topk}': _overall_f1(best, shown, known),
        }


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """mAP of :class:`MultiLabelMetric`, from 0 to 1; 0 if no image shows a class.

    Args:
        scores: (B, K).
        labels: (B, K) of 1, 0 and -1 for unknown.
    """
    shown, known = labels == 1, labels >= 0
    scores = _without_nan(scores, shown)
    found = [_average_precision(scores[known[:, k], k], shown[known[:, k], k]) for k in np.flatnonzero(shown.any(0))]
    return float(np.mean(found)) if found else 0.0


def _without_nan(scores: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Scores; those that are no number are the worst that they can be."""
    return np.where(np.isnan(scores), np.where(shown, -np.inf, np.inf), scores)


def _average_precision(scores: np.ndarray, shown: np.ndarray) -> float:
    order = np.argsort(-scores, kind='stable')
    scores, shown = scores[order], shown[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of equal scores
    hits = np.cumsum(shown)[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / shown.sum())


def _counts(above: np.ndarray, shown: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(right, claimed, shown) of each class."""
    return (above & shown).sum(0), (above & known).sum(0), shown.sum(0)


def _class_f1(above: np.ndarray, shown: np.ndarray, known: np.ndarray) -> float:
    right, claimed, there = _counts(above, shown, known)
    recalls = right[there > 0] / there[there > 0]
    return _harmonic(float(np.mean(right / np.maximum(claimed, 1))), float(recalls.mean()) if len(recalls) else 0.0)


def _overall_f1(above: np.ndarray, shown: np.ndarray, known: np.ndarray) -> float:
    right, claimed, there = (int(count.sum()) for count in _counts(above, shown, known))
    return _harmonic(right / max(claimed, 1), right / max(there, 1))


def _harmonic(precision: float, recall: float) -> float:
    return 200 * precision * recall / (precision + recall) if precision + recall else 0.0
