"""Where a training started and where it ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from vlm_dense.registry import HOOKS, MODELS


@HOOKS.register_module()
class ZeroShotComparisonHook(Hook):
    """Report test accuracy of hand-written prompts before training and of the trained model after it.

    Both are measured on ``test_dataloader`` by ``test_evaluator``, and nothing is chosen by them: what is reported
    after training are the last weights.

    Args:
        templates: Of the hand-written prompts, see :class:`~vlm_dense.methods.text_prompts.ZeroShotPrompt`. ``_`` in
            class names becomes a space.
    """

    def __init__(self, templates: Sequence[str] = ('a photo of a {}.',)):
        self.templates = tuple(templates)
        self.zero_shot: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Test with hand-written prompts in the place of the model's own."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        names = [name.replace('_', ' ') for name in model.class_names]
        prompt = MODELS.build(
            dict(type='vlm_dense.ZeroShotPrompt', templates=self.templates),
            default_args=dict(class_names=names, text_tower=model.text_encoder),
        )
        learned, model.text_prompt = model.text_prompt, prompt
        try:
            self.zero_shot = _test(runner)
        finally:
            model.text_prompt = learned
        runner.logger.info(f'Before training, zero-shot with {", ".join(self.templates)!r}: {_line(self.zero_shot)}')

    def after_train(self, runner: Runner) -> None:
        """Test the trained model."""
        trained = _test(runner)
        runner.logger.info(f'After training: {_line(trained)} (zero-shot: {_line(self.zero_shot)})')


def _test(runner: Runner) -> dict[str, float]:
    loop, mode = runner.test_loop, runner.model.training
    runner.model.eval()
    with torch.no_grad():
        for batch in loop.dataloader:
            loop.evaluator.process(data_samples=runner.model.test_step(batch), data_batch=batch)
    runner.model.train(mode)
    return loop.evaluator.evaluate(len(loop.dataloader.dataset))


def _line(metrics: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
