"""Metrics of segmentation beyond mmseg's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.evaluation import IoUMetric

from vlm_dense.registry import METRICS


@METRICS.register_module()
class VariantIoU(IoUMetric):
    """mmseg's ``IoUMetric`` of another label map of the samples: ``pred_<name>``, reported as ``<name>/mIoU``.

    Args:
        name: One of the ``variants`` of :class:`vlm_dense.segmentation.MaskCLIP`.
        **kwargs: As in mmseg.
    """

    def __init__(self, name: str, **kwargs: Any):
        super().__init__(prefix=name, **kwargs)
        self.field = f'pred_{name}'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch; nothing of samples without this label map."""
        found = [dict(s, pred_sem_seg=s[self.field]) for s in data_samples if self.field in s]
        super().process(data_batch, found)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """mmseg's figures; none where no sample had the label map, of which mmengine warns."""
        return super().compute_metrics(results) if results else {}
