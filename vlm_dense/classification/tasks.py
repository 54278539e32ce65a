"""Several tasks in one run: their data sets joined, and a metric that stays inside the task of each image.

"Multitask Vision-Language Prompt Tuning", WACV 2024; "Multi-task prompt tuning with soft context sharing for
vision-language models", Neurocomputing 2024.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, combinations, pairwise
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch.utils.data import ConcatDataset

from vlm_dense.classification.metrics import mean_average_precision
from vlm_dense.datasets.placeholders import of_tasks
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS, METRICS


@DATASETS.register_module()
class TaskDataset(ConcatDataset):
    """The images of several data sets, each a task with classes of its own; a shuffled batch mixes them.

    The classes are those of all tasks, one task after the other, and labels count them. The sample of an image has

    - ``gt_label`` counting all classes, or ``gt_labels`` (K,) with -1, unknown, for the classes of other tasks
    - ``task``: int64, scalar, place of its task
    - ``task_classes``: int64 (2,), first class of its task and the one after its last
    - ``task_name``, in its metainfo

    and the metainfo has ``classes`` and ``tasks``: name of a task -> names of its classes.

    Args:
        datasets: Of each task; or one config for all, in which ``{task}`` is the name of the task, as in ``tasks``.
        tasks: Their names. ``_`` is a space.
        same_names: Tasks may have classes of the same name, which stay classes of their own. A prompt that all tasks
            share cannot tell them apart, so then loss and metric have to stay inside a task.

    Raises:
        ConfigError: no task, another number of names than of data sets, two tasks of one name, or classes of the same
            name without ``same_names``.
    """

    joins_classes = True

    def __init__(self, datasets: Sequence[dict] | Mapping, tasks: Sequence[str], same_names: bool = False):
        datasets = of_tasks(datasets, tasks)
        names = [name.replace('_', ' ') for name in tasks]
        if not datasets or len(names) != len(datasets) or len(set(names)) < len(names):
            raise ConfigError(
                f'TaskDataset: expected a different name for each of the {len(datasets)} data sets (at least one), '
                f'found {list(tasks)}. "_" and a space are the same.'
            )
        parts = [ROOT_DATASETS.build(dataset) for dataset in datasets]
        classes = {name: tuple(part.metainfo['classes']) for name, part in zip(names, parts, strict=True)}
        for one, other in () if same_names else combinations(names, 2):
            same = [name for name in classes[one] if name in classes[other]]
            if same:
                raise ConfigError(
                    f'TaskDataset: the tasks {one!r} and {other!r} both have classes named '
                    f'{", ".join(map(repr, same[:5]))}. Rename them, or set same_names=True: they stay different '
                    "classes, which only a loss and a metric inside the task (others='left_out', TaskAccuracy) can "
                    'tell apart.'
                )
        for part in parts:
            part.full_init()
        super().__init__(parts)
        self.metainfo = dict(classes=tuple(chain.from_iterable(classes.values())), tasks=classes)
        self.bounds = list(pairwise([0, *accumulate(map(len, classes.values()))]))

    def __getitem__(self, index: int) -> dict:
        """``inputs`` and ``data_samples`` of an image."""
        item = super().__getitem__(index)
        task = bisect_right(self.cumulative_sizes, index)
        first, end = self.bounds[task]
        sample = item['data_samples'].clone()
        if 'gt_label' in sample:
            sample.gt_label = sample.gt_label + first
        if 'gt_labels' in sample:
            labels = sample.gt_labels.new_full((len(self.metainfo['classes']),), -1)
            labels[first:end] = sample.gt_labels
            sample.gt_labels = labels
        sample.task, sample.task_classes = torch.tensor(task), torch.tensor(self.bounds[task])
        sample.set_metainfo(dict(task_name=list(self.metainfo['tasks'])[task]))
        return dict(item, data_samples=sample)


@METRICS.register_module()
class TaskAccuracy(BaseMetric):
    """Accuracy inside the task of each image, in percent: ``<task>/top1`` and the mean over tasks, ``top1``.

    Of a task with several labels an image it is the mean average precision, ``<task>/mAP``.

    Args:
        collect_device, prefix: As in mmengine.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the task of each image, and whether its class has the greatest score of that task, or all its scores."""
        for sample in data_samples:
            if 'task_classes' not in sample or not {'gt_label', 'gt_labels'} & set(sample):
                raise DataError(
                    f'TaskAccuracy: {sample.get("img_path", "an image")} has no task or no label. Data of several '
                    'tasks come from vlm_dense.TaskDataset.'
                )
            first, end = sample['task_classes'].tolist()
            scores = sample['pred_scores'][first:end].cpu().float().numpy()
            if 'gt_labels' in sample:
                found = np.stack([scores, sample['gt_labels'][first:end].cpu().numpy()])
            else:
                found = first + int(scores.argmax()) == int(sample['gt_label'])
            self.results.append((int(sample['task']), found))

    def compute_metrics(self, results: list[tuple[int, bool | np.ndarray]]) -> dict[str, float]:
        """Percentages of the images of each task."""
        of_task: dict[int, list] = defaultdict(list)
        for task, found in results:
            of_task[task].append(found)
        names, metrics = list(self.dataset_meta['tasks']), {}
        for task, found in sorted(of_task.items()):
            if isinstance(found[0], np.ndarray):
                scores, labels = np.stack(found, axis=1)
                metrics[f'{names[task]}/mAP'] = 100 * mean_average_precision(scores, labels)
            else:
                metrics[f'{names[task]}/top1'] = 100 * float(np.mean(found))
        return dict(metrics, top1=float(np.mean(list(metrics.values()))))
