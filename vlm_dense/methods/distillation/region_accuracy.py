"""How often regions of a dense map are named right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from vlm_dense.registry import METRICS


@METRICS.register_module()
class RegionAccuracy(BaseMetric):
    """Accuracy of classes in annotated boxes, and masks, in percent: the mean over the classes that occur.

    ``regions/boxes_top1``, ``regions/boxes_top5`` and, where samples have ``mask_scores``, ``regions/masks_top1``, ...;
    ``regions/boxes_all_top1`` is the share of all boxes.

    Args:
        topk: For each k, a region counts if its class is among the k best.
        prefix: As of any metric.
    """

    default_prefix = 'regions'

    def __init__(self, topk: Sequence[int] = (1, 5), prefix: str | None = None, **kwargs: Any):
        super().__init__(prefix=prefix, **kwargs)
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence) -> None:
        """Keep the ranks of the right classes."""
        for sample in data_samples:
            ranks = {}
            for kind in ('box', 'mask'):
                scores = sample.get(f'{kind}_scores')
                if scores is not None:
                    ranks[kind] = _ranks(scores, sample['labels'].to(scores.device)).cpu()
            self.results.append((sample['labels'].cpu(), ranks))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Metrics of all samples; of no region nan."""
        labels = torch.cat([labels for labels, _ in results])
        metrics = {}
        for kind, name in (('box', 'boxes'), ('mask', 'masks')):
            if not all(kind in ranks for _, ranks in results):
                continue
            ranks = torch.cat([ranks[kind] for _, ranks in results])
            for k in self.topk:
                right = (ranks < k).double()
                of_class = [right[labels == label].mean() for label in labels.unique()]
                metrics[f'{name}_top{k}'] = 100 * float(torch.stack(of_class).mean()) if of_class else float('nan')
            metrics[f'{name}_all_top1'] = 100 * float((ranks < 1).double().mean())
        return metrics


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes score higher than the right one; (n, K), (n,) -> (n,)."""
    own = scores.gather(1, labels[:, None])
    return (scores > own).sum(dim=1)
