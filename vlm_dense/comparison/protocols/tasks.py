"""Several tasks in one run against one run a task (MVLPT, section 4; SoftCPT, section 4)."""

from __future__ import annotations

from vlm_dense.comparison.protocols.protocol import Protocol, Run, mean_over
from vlm_dense.errors import ConfigError


class Tasks(Protocol):
    """Accuracy inside each task, and the average over tasks.

    A config with a ``vlm_dense.TaskDataset`` as data is trained once. Of another one there is a training for each of
    its ``single_tasks``, task -> what changes in all data, with a test on that task alone.
    """

    metrics = ('top1',)

    def runs(self, cfg: dict, name: str) -> list[Run]:
        """One training, or one for each task."""
        if str(cfg['test_dataloader']['dataset']['type']).endswith('TaskDataset'):
            return [Run()]
        single = cfg.get('single_tasks') or {}
        if not single:
            raise ConfigError(
                f'{name}: --protocols tasks needs a config with a vlm_dense.TaskDataset, or one that says '
                'single_tasks, task -> what changes in all data. Found neither.'
            )
        return [Run(dict(change), {task: {}}) for task, change in single.items()]

    def values(self, test: str, metrics: dict[str, float]) -> list[tuple[str, str, float]]:
        """The accuracy of each task, mAP of one with several labels an image."""
        own = [(*name.rpartition('/')[::2], value) for name, value in metrics.items() if '/' in name]
        return own or super().values(test, metrics)

    def summary(self, rows: list[dict]) -> list[dict]:
        """Rows 'average' over the tasks."""
        return mean_over(rows)
