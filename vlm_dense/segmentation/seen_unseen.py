"""Metrics of zero-shot segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmseg.evaluation import IoUMetric

from vlm_dense.errors import ConfigError
from vlm_dense.registry import METRICS


@METRICS.register_module()
class SeenUnseenIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric``, with mIoU of the classes that had labels in training and of those that had none.

    Adds ``seen_mIoU``, ``unseen_mIoU`` and their harmonic mean ``hIoU``, in percent.

    Args:
        unseen: Labels of the classes without labels in training.
        **kwargs: As in mmseg.

    Raises:
        ConfigError: no unseen class, or no such label.
    """

    def __init__(self, unseen: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.unseen = sorted(set(unseen))
        if not self.unseen or self.unseen[0] < 0:
            raise ConfigError(f'SeenUnseenIoUMetric: unseen must list labels, found {list(unseen)}.')

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Metrics of all samples; ``results`` as :meth:`process` gathered them."""
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        intersection, union = (np.sum([np.asarray(r[i]) for r in results], axis=0) for i in (0, 1))
        if self.unseen[-1] >= len(union):
            raise ConfigError(
                f'SeenUnseenIoUMetric: unseen lists {self.unseen[-1]}, but there are {len(union)} classes.'
            )
        iou = np.where(union > 0, 100 * intersection / np.maximum(union, 1), np.nan)
        unseen = np.isin(np.arange(len(iou)), self.unseen)
        known, new = (float(np.nanmean(iou[where])) for where in (~unseen, unseen))
        both = 2 * known * new / (known + new) if known + new > 0 else 0.0
        return dict(metrics, seen_mIoU=round(known, 2), unseen_mIoU=round(new, 2), hIoU=round(both, 2))
