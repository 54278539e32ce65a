"""The loss of several tasks in one run.

"Multitask Vision-Language Prompt Tuning", WACV 2024; "Multi-task prompt tuning with soft context sharing for
vision-language models", Neurocomputing 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.contract.roles import Loss, Step
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS

OTHERS = ('kept', 'zero', 'left_out')


def check_tasks(data_samples: Sequence) -> Sequence:
    """The samples, if each has a task.

    Raises:
        DataError: an image without task; names it.
    """
    bare = next((sample for sample in data_samples if 'task_classes' not in sample), None)
    if bare is not None:
        raise DataError(
            f'{bare.get("img_path", "An image")} has no task. Data of several tasks come from vlm_dense.TaskDataset.'
        )
    return data_samples


def within_task(data_samples: Sequence, classes: Tensor) -> Tensor:
    """Which classes belong to the task of each image: bool (B, k) for the classes (k,)."""
    bounds = torch.stack([sample.task_classes for sample in check_tasks(data_samples)])
    first, end = bounds.to(classes.device).T[..., None]
    return (classes >= first) & (classes < end)


@MODELS.register_module()
class TaskCrossEntropy(Loss):
    """Mean cross-entropy over images of several tasks, ``loss_ce``.

    An image that shows several classes counts for each of them alike: its target is 1 / n for n classes. A batch may
    mix such images and those of one label.

    Args:
        others: What becomes of the logits of other tasks: they are ``'left_out'`` of the softmax (SoftCPT), set to
            ``'zero'`` (MVLPT's option; a zero competes), or ``'kept'`` (MVLPT's default).

    Raises:
        ConfigError: another word.
    """

    def __init__(self, others: str = 'left_out'):
        super().__init__()
        if others not in OTHERS:
            raise ConfigError(f'TaskCrossEntropy: others must be one of {OTHERS}, found {others!r}.')
        self.others = others

    def restrict(self, logits: Tensor, data_samples: Sequence, classes: Tensor) -> Tensor:
        """Logits (B, k) of the classes (k,), those of other tasks changed."""
        if self.others == 'kept':
            return logits
        inside = within_task(data_samples, classes)
        return logits * inside if self.others == 'zero' else logits.where(inside, torch.finfo(logits.dtype).min / 2)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_ce``.

        Raises:
            DataError: an image without task, or one of several labels that shows nothing; names it.
        """
        every = torch.arange(len(step.class_names), device=step.logits.device)
        classes = every if step.classes is None else step.classes
        logits = self.restrict(step.logits, step.data_samples, classes)
        if any('gt_labels' in sample for sample in step.data_samples):
            alone = [replace(step, data_samples=[sample]) for sample in step.data_samples]
            shown = torch.cat([_shown(image, classes) for image in alone]).to(logits.dtype)
            blank = (shown.sum(dim=1) == 0).nonzero()
            if len(blank):
                where = step.data_samples[int(blank[0])].get('img_path', 'An image')
                raise DataError(f'{where} shows none of the classes of this step, so that it has no target.')
            return dict(loss_ce=F.cross_entropy(logits, shown / shown.sum(dim=1, keepdim=True)))
        return dict(loss_ce=F.cross_entropy(logits, (step.labels()[:, None] == classes).int().argmax(dim=1)))


def _shown(step: Step, classes: Tensor) -> Tensor:
    """Which classes (k,) each image shows, bool (B, k), of images of one kind of label."""
    if 'gt_labels' in step.data_samples[0]:
        return step.multi_hot_labels() == 1
    return step.labels().to(classes.device)[:, None] == classes
