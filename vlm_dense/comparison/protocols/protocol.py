"""Interface of a protocol of a comparison."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from vlm_dense.errors import ConfigError


@dataclass
class Run:
    """A training and its tests.

    Attributes:
        data: What changes in all data sets.
        tests: Test set name -> what changes further in the test data.
        options: Test set name -> dotted key -> value, what changes in the config of that test.
    """

    data: dict = field(default_factory=dict)
    tests: dict[str, dict] = field(default_factory=lambda: dict(test={}))
    options: dict[str, dict] = field(default_factory=dict)


class Protocol:
    """Base: one training, one test, a column for each test set.

    Attributes:
        has_shots: The number of training images of a class is asked for; else all images are taken, told as 0 shots.
        metrics: The first of them that a test gives is its value.
        columns: What the columns of the table are: 'shots', 'test' or 'metric'.
        drawn: Those of them that the image has bars of; all if empty.
    """

    has_shots = True
    metrics: tuple[str, ...] = ('top1', 'mAP')
    columns = 'test'
    drawn: tuple[str, ...] = ()

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """The trainings that a config needs, as it is read from the file.

        Args:
            cfg: The config.
            name: Of method and data set, for messages.

        Raises:
            ConfigError: the config does not fit the protocol.
        """
        return [Run()]

    def values(self, test: str, metrics: dict[str, float]) -> list[tuple[str, str, float]]:
        """(test set name, metric, value) of what a test found."""
        metric = next((name for name in self.metrics if name in metrics), next(iter(metrics)))
        return [(test, metric, metrics[metric])]

    def summary(self, rows: list[dict]) -> list[dict]:
        """Rows that follow from those of the tests, as a mean."""
        return []


def check_evaluator(cfg: dict, kind: str, protocol: str, name: str) -> None:
    """Refuse a config with tests that give other metrics.

    Raises:
        ConfigError: another ``test_evaluator``.
    """
    evaluator = cfg.get('test_evaluator') or {}
    found = {str(one.get('type')).split('.')[-1] for one in ([evaluator] if isinstance(evaluator, dict) else evaluator)}
    if kind not in found:
        raise ConfigError(
            f'{name}: --protocols {protocol} needs a config with the test_evaluator vlm_dense.{kind}, found '
            f'{", ".join(sorted(found)) or "none"}. Name a method that has one.'
        )


def across_tests(rows: list[dict], name: str, combine: Callable[[dict[str, float]], float | None]) -> list[dict]:
    """For each method, set, shots and seed a row with test ``name``: ``combine`` of its tests.

    Args:
        rows: Of one protocol.
        name: Of the new column.
        combine: Test set name -> value, to a value or ``None`` for no row.
    """
    groups: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for row in rows:
        groups[row['method'], row['dataset'], row['shots'], row['seed']][row['test']] = row
    found = []
    for group in groups.values():
        value = combine({test: row['value'] for test, row in group.items()})
        if value is not None:
            found.append(dict(next(reversed(group.values())), test=name, value=value))
    return found


def mean_over(rows: list[dict], without: str | None = None) -> list[dict]:
    """A row 'average' for each group of tests that is complete, ``without`` left out of the mean."""
    every = {row['test'] for row in rows}

    def mean(values: dict[str, float]) -> float | None:
        kept = [value for test, value in values.items() if test != without]
        return statistics.mean(kept) if set(values) == every and kept else None

    return across_tests(rows, 'average', mean)
