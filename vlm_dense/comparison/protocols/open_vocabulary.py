"""Segmentation by names of which training has shown and named some."""

from __future__ import annotations

from vlm_dense.comparison.protocols.multi_label import MultiLabel
from vlm_dense.comparison.protocols.protocol import Run, check_evaluator


class OpenVocabulary(MultiLabel):
    """mIoU of seen and of unseen classes, and their harmonic mean, of ``vlm_dense.SeenUnseenIoUMetric``."""

    metrics = ('seen_mIoU', 'unseen_mIoU', 'hIoU')

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, one test."""
        check_evaluator(cfg, 'SeenUnseenIoUMetric', 'open-vocabulary', name)
        return [Run()]
