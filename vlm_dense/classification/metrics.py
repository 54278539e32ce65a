"""Metrics of image classification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

from vlm_dense.errors import ConfigError
from vlm_dense.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of images whose class is among the k with the greatest scores, in percent.

    Gives ``top1``, ``top5``, ... and ``mean_class``, the mean over classes of the top-1 accuracy of their images;
    classes without images are left out. Of equal scores the first class counts as greater, and a score that is not a
    number is greater than any, so that it is never counted as right.

    Args:
        topk: Each k.
        collect_device, prefix: As in mmengine.
    """

    def __init__(self, topk: Sequence[int] = (1,), collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)
        if not topk or min(topk) < 1:
            raise ConfigError(f'Accuracy: topk must hold numbers from 1, found {tuple(topk)}.')
        self.topk = tuple(topk)

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
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
