"""Base to new: train on half of the classes, test on each half (CoCoOp, section 4.1)."""

from __future__ import annotations

from vlm_dense.comparison.protocols.protocol import Protocol, Run, across_tests


class BaseToNew(Protocol):
    """Accuracy on the half of the training, on the other half, and their harmonic mean."""

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, two tests."""
        return [Run(dict(classes='base'), dict(base=dict(classes='base'), new=dict(classes='new')))]

    def summary(self, rows: list[dict]) -> list[dict]:
        """Rows 'harmonic mean' of each seed with both halves."""
        return across_tests(rows, 'harmonic mean', lambda of: harmonic(**of) if len(of) == 2 else None)


def harmonic(base: float, new: float) -> float:
    """Harmonic mean, 0 if one of them is."""
    return 2 * base * new / (base + new) if base + new else 0.0
