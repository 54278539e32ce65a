"""Classes in a tree (ProTeCt, sections 4 and 5)."""

from __future__ import annotations

from vlm_dense.comparison.protocols.multi_label import MultiLabel
from vlm_dense.comparison.protocols.protocol import Run, check_evaluator


class Hierarchical(MultiLabel):
    """Leaf accuracy, HCA and MTA of ``vlm_dense.TaxonomyMetric``."""

    has_shots = True
    metrics = ('top1', 'HCA', 'MTA')

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, one test."""
        check_evaluator(cfg, 'TaxonomyMetric', 'hierarchical', name)
        return [Run()]
