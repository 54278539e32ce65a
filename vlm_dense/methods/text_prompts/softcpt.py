"""SoftCPT: the contexts of several tasks come out of one network that reads the tasks' names.

"Multi-task prompt tuning with soft context sharing for vision-language models", Neurocomputing 603, 2024.

Related tasks should have related prompts. A network shared by all tasks turns the text feature of a task's name into
the context vectors of that task, and all tasks are trained together. Variants also read the class names and give each
class a context of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import Tensor, nn

from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import LearnedContext, TextPrompt
from vlm_dense.contract.roles import labels_of
from vlm_dense.contract.task_loss import TaskCrossEntropy, check_tasks
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts.coop import CoOpPrompt
from vlm_dense.methods.text_prompts.zero_shot import ZeroShotPrompt
from vlm_dense.registry import MODELS, OPTIM_WRAPPERS, PARAM_SCHEDULERS

PAPER = dict(
    name='SoftCPT',
    title='Multi-task prompt tuning with soft context sharing for vision-language models',
    venue='Neurocomputing 603, 2024',
    link='https://arxiv.org/abs/2208.13474',
    code='https://github.com/kding1225/softcpt',
    licence='MIT',
    idea=(
        "Prompts of several tasks are trained together: one linear network maps the text feature of a task's "
        "name into the task's context, so that related tasks get related contexts. A variant also reads class names."
    ),
    trains='a layer that makes the context of each task of its name',
    contract='`task` of samples, names of tasks; sub-lists; (K, D); CE inside each task',
    notes="""
- The paper's variants: `source='task'` is NAT*, `source='both'` *AT* and *ST*; `task_specific` and `class_specific`
  are the S. `'mean'` and `'class'` are further generators of the official code.
- The official loop steps its one optimiser and scheduler once for each module, three or four times an iteration and
  an epoch. `softcpt_general10.py` does so (`RepeatedSteps`, `RepeatedCosineLR`); the configs for drawn scenes step
  once.
- Loss and accuracy stay inside the task of each image. With `rate` above 0 only some of the absent classes are
  encoded in a step.

Published: SoftCPT is above CoOp, trained on each task alone, in the mean of each of four benchmarks; tables in the
paper.
""",
)


SOURCES = ('task', 'both', 'mean', 'class')


@MODELS.register_module()
class SoftCPTPrompt(LearnedContext):
    """The context of a task or class is a linear map of the text feature of its name (section 3).

    With h_t the embedding, not normalised, of ``[SOS] u_1 .. u_M' task . [EOT]`` and h_k that of a class behind other
    vectors, ``V = reshape(h W, (M, d))``, where h is, by ``source``,

    ============ ============= ==================== ========================
    ``'task'``   h_t           NATA, NATS           one context a task
    ``'both'``   [h_k, h_t]    CATA, CATS, CSTA, .. one context a class
    ``'mean'``   their mean    (of the code alone)  one context a class
    ``'class'``  h_k           (of the code alone)  one context a class
    ============ ============= ==================== ========================

    Args:
        class_names, text_tower: See :class:`TextPrompt`; the classes of one task after those of the other.
        tasks: Name of each task -> its number of classes. ``_`` becomes a space.
        source: See above.
        num_contexts: M.
        position: Of the class name, see :class:`LearnedContext`.
        task_contexts, class_contexts: M', vectors in front of the name of a task or class; 0 for the name alone.
        task_specific, class_specific: Each task, each class has vectors u of its own (the S in the paper's names).
        frozen_class_contexts: Those in front of the class name stay as they begin.
        std: Standard deviation of all that is learned at the beginning.
        pretrained: Name of each module of the official release, ``'task_prompt_learner'``, ``'class_prompt_learner'``
            and ``'prompt_gen'`` -> its checkpoint.

    Attributes:
        task_prompt, class_prompt: What makes h_t and h_k; ``None`` where it is not needed.
        proj: W, (e, M d), or (2e, M d) for ``'both'``.

    Raises:
        ConfigError: no ``tasks``, or other numbers of classes than there are names; an unknown ``source``.
    """

    key_map = {
        r'^task_prompt_learner\.': 'task_prompt.',
        r'^class_prompt_learner\.': 'class_prompt.',
        r'^prompt_gen\.': '',
    }
    ignored_prefixes = (
        'token_prefix',
        'token_suffix',
        *(f'{learner}_prompt.{name}' for learner in ('task', 'class') for name in ('token_prefix', 'token_suffix')),
    )

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        tasks: Mapping[str, int] | None = None,
        source: str = 'task',
        num_contexts: int = 16,
        position: str = 'end',
        task_contexts: int = 4,
        class_contexts: int = 4,
        task_specific: bool = False,
        class_specific: bool = False,
        frozen_class_contexts: bool = False,
        std: float = 0.02,
        pretrained: Mapping[str, str] | None = None,
        init_cfg: dict | None = None,
    ):
        if source not in SOURCES:
            raise ConfigError(f'SoftCPTPrompt: source must be one of {SOURCES}, found {source!r}.')
        if sum((tasks or {}).values()) != len(class_names):
            raise ConfigError(
                f'SoftCPTPrompt: tasks must give the number of classes of each task, {len(class_names)} in all, in the '
                f"order of the data; found {dict(tasks or {})}. For one task: tasks={{'its name': {len(class_names)}}}."
            )
        own = dict(position=position, class_specific=source != 'task', init_cfg=init_cfg)
        super().__init__(class_names, text_tower, num_contexts, **own)
        self.ctx = None  # is computed
        self.source, self.sizes = source, list(tasks.values())
        self.tasks = [name.replace('_', ' ') for name in tasks]
        self.task_prompt = self.class_prompt = None
        if source != 'class':
            self.task_prompt = _reader(list(tasks), text_tower, task_contexts, task_specific, std)
        if source != 'task':
            self.class_prompt = _reader(class_names, text_tower, class_contexts, class_specific, std)
            self.class_prompt.requires_grad_(not frozen_class_contexts)
        inputs = text_tower.embed_dim * (2 if source == 'both' else 1)
        self.proj = nn.Parameter(std * torch.randn(inputs, num_contexts * text_tower.width))
        task_of_class = torch.arange(len(tasks)).repeat_interleave(torch.tensor(self.sizes))
        self.register_buffer('task_of_class', task_of_class, persistent=False)
        self.load_pretrained(pretrained)

    def training_batch(self, data_samples: list) -> None:
        """Check whether the tasks of the data are those of the prompt, in their order.

        Raises:
            ConfigError: a task with other classes here, or that stands at another place here.
        """
        ends = list(accumulate(self.sizes))
        own = {(end - size, end): name for name, size, end in zip(self.tasks, self.sizes, ends, strict=True)}
        for sample in data_samples:
            if 'task_classes' not in sample:  # one task
                continue
            bounds = tuple(sample.task_classes.tolist())
            name, here = sample.metainfo.get('task_name'), own.get(bounds)
            if here is None or (name != here and name in self.tasks):
                raise ConfigError(
                    f'SoftCPTPrompt: the data have the task {name!r} with the classes {bounds[0]} to {bounds[1] - 1}, '
                    f'and here these are {"of no task" if here is None else repr(here)}; tasks have '
                    f'{dict(zip(self.tasks, self.sizes, strict=True))} classes. Give tasks in the order of the data, '
                    'so that each has its own context.'
                )

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (K, D)."""
        every = torch.arange(len(self.class_names), device=self.task_of_class.device)
        classes = every if classes is None else classes
        contexts = self.contexts(text_tower, classes)
        if self.source != 'task':
            spread = contexts.new_zeros(len(every), *contexts.shape[1:]).index_copy(0, classes, contexts)
            return self.encode(text_tower, spread, classes)
        tasks = self.task_of_class[classes]
        places = [(tasks == task).nonzero().flatten() for task in tasks.unique()]
        parts = [self.encode(text_tower, contexts[tasks[of_task[0]]], classes[of_task]) for of_task in places]
        return torch.cat(parts)[torch.cat(places).argsort()]

    def contexts(self, text_tower: TextTower, classes: Tensor) -> Tensor:
        """V of all tasks, (T, M, d), or of these classes, (k, M, d)."""
        task = self.task_prompt and read_names(self.task_prompt, text_tower)
        features = task if self.source == 'task' else read_names(self.class_prompt, text_tower, classes)
        if self.source in ('both', 'mean'):
            pair = features, task[self.task_of_class[classes]]
            features = torch.cat(pair, dim=1) if self.source == 'both' else sum(pair) / 2
        return (features @ self.proj.to(features.dtype)).unflatten(1, (self.num_contexts, -1))

    def describe_shapes(self) -> str:
        """Sizes, for the message about a file that does not fit."""
        inputs, outputs = self.proj.shape
        return (
            f'This SoftCPTPrompt makes {self.num_contexts} vectors of {outputs // self.num_contexts} channels from '
            f'{inputs} channels of names.'
        )


def _reader(names: Sequence[str], text_tower: TextTower, num_contexts: int, specific: bool, std: float) -> TextPrompt:
    """Encoder of names, with vectors in front of them if there are any."""
    if num_contexts == 0:
        return ZeroShotPrompt(names, text_tower, templates=['{}.'], separators='_')
    return CoOpPrompt(names, text_tower, num_contexts=num_contexts, class_specific=specific, std=std)


def read_names(reader: TextPrompt, text_tower: TextTower, classes: Tensor | None = None) -> Tensor:
    """Embeddings of names as the tower gives them, not normalised."""
    if isinstance(reader, CoOpPrompt):
        return reader(text_tower, classes=classes)
    features = reader.sentences(text_tower)[:, 0]
    return features if classes is None else features[classes]


@MODELS.register_module()
class SoftCPTLoss(TaskCrossEntropy):
    """Mean cross-entropy inside the task of each image, over some of its classes (section 3.4).

    In each step, of a task with images in the batch, the classes of these images are encoded, and of its other
    classes, n of them, ``ceil(rate * n)`` drawn again. Tasks without images count nowhere and are not encoded.

    Args:
        rate: Share of absent classes; 0 for all classes of all tasks, as in the paper for most data.

    Raises:
        ConfigError: a ``rate`` outside of [0, 1].
    """

    def __init__(self, rate: float = 0.0):
        super().__init__('left_out')
        if not 0 <= rate <= 1:
            raise ConfigError(f'SoftCPTLoss: rate must lie between 0 and 1, found {rate}.')
        self.rate = rate

    def classes(self, data_samples: list) -> Tensor | None:
        """The classes of this step, task after task, those of images first; ``None`` for all."""
        if self.rate == 0:
            return None
        bounds = [tuple(sample.task_classes.tolist()) for sample in check_tasks(data_samples)]
        labels = labels_of(data_samples, max(end for _, end in bounds)).tolist()
        chosen = []
        for first, end in sorted(set(bounds)):
            present = {label for label, of_task in zip(labels, bounds, strict=True) if of_task == (first, end)}
            absent = torch.tensor([k for k in range(first, end) if k not in present], dtype=torch.int64)
            drawn = torch.randperm(len(absent))[: math.ceil(len(absent) * self.rate)]
            chosen += [torch.tensor(sorted(present)), absent[drawn]]
        return torch.cat(chosen).to(data_samples[0].task_classes.device)


# --- the official training loop ---------------------------------------------------------------------------------------


@OPTIM_WRAPPERS.register_module()
class RepeatedSteps(OptimWrapper):
    """Each step is taken several times with the same gradient.

    The official code steps its optimiser once for each module that learns, three without and four with class features,
    although the modules share it. Published figures were made so; the equations have one step.

    Args:
        times: Number of steps.
        **kwargs: See :class:`mmengine.optim.OptimWrapper`.

    Raises:
        ConfigError: ``times`` below 1.
    """

    def __init__(self, times: int = 3, **kwargs: Any):
        if times < 1:
            raise ConfigError(f'RepeatedSteps: times must be at least 1, found {times}.')
        super().__init__(**kwargs)
        self.times = times

    def step(self, **kwargs: Any) -> None:
        """Clip the gradient, if asked for, and step."""
        super().step(**kwargs)
        for _ in range(1, self.times):
            self.optimizer.step(**kwargs)


@PARAM_SCHEDULERS.register_module()
class RepeatedCosineLR(LRSchedulerMixin, _ParamScheduler):
    """The rate of the official loop, which steps its scheduler as often as its optimiser, see :class:`RepeatedSteps`.

    In epoch e the rate is ``lr / 2 * (1 + cos(pi * (times * e - 1) / period))``, which goes down, up and down again;
    in the first it is ``warm_up_lr``.

    Args:
        optimizer: What has the rate.
        period: Number of epochs for which the schedule was meant.
        times: Steps of the scheduler in an epoch.
        warm_up_lr: Rate of the first epoch.
        **kwargs: See :class:`mmengine.optim.LinearLR`.
    """

    def __init__(self, optimizer, period: int, times: int = 3, warm_up_lr: float = 1e-5, **kwargs: Any):
        self.period, self.times, self.warm_up_lr = period, times, warm_up_lr
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        step = self.times * self.last_step
        if step == 0:
            return [self.warm_up_lr for _ in self.base_values]
        factor = (1 + math.cos(math.pi * (step - 1) / self.period)) / 2
        return [base * factor for base in self.base_values]
