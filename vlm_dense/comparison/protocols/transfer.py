"""Train on a source, test on other data (CoOp, section 4.2; CoCoOp, sections 4.2 and 4.3).

A config says ``source``, what changes in all data for the training, if anything, and what changes in the test data:
``targets``, data sets of other classes, and ``domains``, the same classes under a shift.
"""

from __future__ import annotations

from vlm_dense.comparison.protocols.protocol import Protocol, Run, mean_over
from vlm_dense.errors import ConfigError


class Transfer(Protocol):
    """Accuracy on the source and on data sets of other classes, and the average over these."""

    key, option = 'targets', 'transfer'
    drawn = ('source', 'average')

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, a test on the source and one on each target."""
        targets = cfg.get(self.key) or {}
        if not targets:
            raise ConfigError(
                f'{name}: its config has no {self.key}, so --protocols {self.option} has no test set. Add them, test '
                'set name -> what changes in the test data.'
            )
        return [Run(dict(cfg.get('source') or {}), dict(source={}, **targets))]

    def summary(self, rows: list[dict]) -> list[dict]:
        """Rows 'average' over the targets."""
        return mean_over(rows, without='source')


class DomainGeneralisation(Transfer):
    """Accuracy on the source and on shifted domains of it, and the average over these."""

    key, option = 'domains', 'domain-generalisation'
