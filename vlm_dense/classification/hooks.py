"""Metrics before and after a training, and its cost."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vlm_dense.engine.models import bare_model
from vlm_dense.engine.runner.evaluation import evaluate
from vlm_dense.registry import HOOKS, MODELS


@HOOKS.register_module()
class ZeroShotComparisonHook(Hook):
    """Report test accuracy of hand-written prompts before training and of the trained model after it.

    Both are measured on ``test_dataloader`` by ``test_evaluator``, and nothing is chosen by them: what is reported
    after training are the last weights.

    Args:
        templates: Of the hand-written prompts, sentences or the name of a list, see
            :class:`~vlm_dense.methods.text_prompts.ZeroShotPrompt`. ``_`` in class names becomes a space.
    """

    def __init__(self, templates: str | Sequence[str] = ('a photo of a {}.',)):
        self.templates = templates
        self.zero_shot: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Test with hand-written prompts, plain towers and cosines instead of the model's own parts."""
        model = bare_model(runner)
        names = [name.replace('_', ' ') for name in model.class_names]
        prompt = MODELS.build(
            dict(type='vlm_dense.ZeroShotPrompt', templates=self.templates),
            default_args=dict(class_names=names, text_tower=model.text_encoder),
        ).to(model.text_encoder.logit_scale.device)
        plain = dict(text_prompt=prompt, image_prompt=None, head=MODELS.build(dict(type='vlm_dense.CosineHead')))
        own = {name: getattr(model, name, None) for name in plain}
        _set(model, plain)
        try:
            self.zero_shot = evaluate(runner)
        finally:
            _set(model, own)
        more = f' and {len(prompt.templates) - 1} more' if len(prompt.templates) > 1 else ''
        runner.logger.info(f'Before training, zero-shot with {prompt.templates[0]!r}{more}: {_line(self.zero_shot)}')

    def after_train(self, runner: Runner) -> None:
        """Test the trained model."""
        trained = evaluate(runner)
        runner.logger.info(f'After training: {_line(trained)} (zero-shot: {_line(self.zero_shot)})')
        if trained == self.zero_shot and min(trained.values(), default=100) < 100:
            runner.logger.warning(
                'Nothing was learned: after training the metrics are those of hand-written prompts without it. '
                'Training was too short or its rate too low, or the images are none that this CLIP can tell apart.'
            )


@HOOKS.register_module()
class CostHook(Hook):
    """Write what a run costs to ``cost.json`` in its work dir.

    - ``trained_parameters``: numbers that training changes
    - ``seconds_per_step``: median over the iterations of this process, data loading left out; ``null`` without any
    - ``peak_memory_mb``: of tensors on the GPU, or of the whole process where there is none; ``null`` on Windows
      without GPU, which does not tell
    - ``transductive``: whether a part of the model reads unlabelled test images, and says so
    """

    priority = 'VERY_LOW'  # the timed span is the iteration and the hooks that belong to it

    def __init__(self):
        self.seconds: list[float] = []
        self._start = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)

    def after_train(self, runner: Runner) -> None:
        """Write the file."""
        self._write(runner)

    def after_test(self, runner: Runner) -> None:
        """Write the file."""
        self._write(runner)

    def _write(self, runner: Runner) -> None:
        path = Path(runner.work_dir, 'cost.json')
        if runner.rank != 0 or (path.is_file() and not self.seconds):  # nothing was left to train when it was resumed
            return
        cost = dict(
            trained_parameters=sum(p.numel() for p in runner.model.parameters() if p.requires_grad),
            seconds_per_step=statistics.median(self.seconds) if self.seconds else None,
            peak_memory_mb=_peak_memory(),
            transductive=any(getattr(module, 'transductive', False) for module in runner.model.modules()),
        )
        path.write_text(json.dumps(cost), encoding='utf-8')


def _peak_memory() -> float | None:
    """In MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _set(model: torch.nn.Module, parts: dict) -> None:
    for name, part in parts.items():
        setattr(model, name, part)


def _line(metrics: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
