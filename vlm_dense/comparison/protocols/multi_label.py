"""Several labels an image (DualCoOp, section 4; TaI-DPT, section 4)."""

from __future__ import annotations

from vlm_dense.comparison.protocols.protocol import Protocol, Run, check_evaluator


class MultiLabel(Protocol):
    """mAP, CF1, OF1 and F1@3 of ``vlm_dense.MultiLabelMetric``, trained on all images that the config names."""

    has_shots = False
    metrics = ('mAP', 'CF1', 'OF1')
    columns = 'metric'

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, one test."""
        check_evaluator(cfg, 'MultiLabelMetric', 'multi-label', name)
        return [Run()]

    def values(self, test: str, metrics: dict[str, float]) -> list[tuple[str, str, float]]:
        """All of ``metrics``, and F1 of the greatest scores of each image, F1@3 unless the metric counts others."""
        return [(test, name, metrics[name]) for name in (*self.metrics, *(m for m in metrics if m.startswith('F1@')))]
