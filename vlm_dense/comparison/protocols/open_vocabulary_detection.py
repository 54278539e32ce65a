"""Detection by names of which training has shown and named some."""

from __future__ import annotations

from vlm_dense.comparison.protocols.protocol import Protocol, Run, check_evaluator


class OpenVocabularyDetection(Protocol):
    """AP50 of base classes, of novel ones and of all, of ``vlm_dense.OVCocoMetric``.

    A detector that asks CLIP about each box a second time is tested again without, on the same weights: ``heads``.
    """

    has_shots = False
    metrics = ('base_ap50', 'novel_ap50', 'bbox_mAP_50')
    columns = 'metric'

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, and a test with and one without the scorer of regions where there is one."""
        check_evaluator(cfg, 'OVCocoMetric', 'open-vocabulary-detection', name)
        heads = [head for head in ('roi_head', 'bbox_head') if (cfg['model'].get(head) or {}).get('scorer')]
        alone = {f'model.{head}.scorer': None for head in heads}
        return [Run(tests=dict(test={}, **(dict(heads={}) if alone else {})), options=dict(heads=alone))]

    def values(self, test: str, metrics: dict[str, float]) -> list[tuple[str, str, float]]:
        """All of ``metrics``, in percent; those of the heads alone say so."""
        of = '' if test == 'test' else f', {test} alone'
        return [(test, metric + of, 100 * metrics[f'coco/{metric}']) for metric in self.metrics]
