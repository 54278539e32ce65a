"""Hooks on the losses of a training iteration."""

from __future__ import annotations

import math

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint

from vlm_dense.errors import InvalidLossError
from vlm_dense.registry import HOOKS


def _numbers(outputs: dict) -> dict[str, float]:
    return {name: float(torch.as_tensor(value).detach()) for name, value in outputs.items()}


@HOOKS.register_module()
class AverageLossesHook(Hook):
    """Average the logged losses over all processes, where mmengine logs those of the first.

    With it the curve of N processes is that of one at the same global batch. A loss that only some processes have in
    an iteration is averaged over these.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which notes the losses

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Replace the values of ``outputs``, a dict of scalars, in place."""
        if outputs and get_world_size() > 1:
            everywhere = all_gather_object(_numbers(outputs))
            for name in outputs:
                values = [process[name] for process in everywhere if name in process]
                outputs[name] = torch.tensor(sum(values) / len(values))


@HOOKS.register_module()
class StopOnInvalidLoss(Hook):
    """Stop before a NaN or infinite loss, or the weights that will give one, reach a checkpoint.

    Raises:
        InvalidLossError: says which loss, at which iteration, and which checkpoint is the last good one.
    """

    priority = 'ABOVE_NORMAL'  # after the losses are averaged, before a checkpoint is saved

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Check every scalar of ``outputs`` with 'loss' in its name."""
        losses = _numbers({k: v for k, v in (outputs or {}).items() if 'loss' in k})
        bad = {k: v for k, v in losses.items() if not math.isfinite(v)}
        if not bad:
            return
        parts = {k: v for k, v in bad.items() if k != 'loss'} or bad  # the sum only where no part is to blame
        self._stop(runner, ', '.join(f'{k} is {v}' for k, v in parts.items()))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the weights: the update of this iteration may have broken them after a finite loss."""
        bad = [k for k, p in runner.model.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
        if bad:
            self._stop(runner, f'The update made {len(bad)} weights NaN or infinite, first {bad[0]},')

    @staticmethod
    def _stop(runner, what: str) -> None:
        last = find_latest_checkpoint(runner.work_dir)
        good = f'The last good checkpoint is {last}.' if last else 'No checkpoint was saved yet.'
        raise InvalidLossError(
            f'{what} at iteration {runner.iter + 1}. Training stops. {good} Try a lower learning rate, gradient '
            'clipping (optim_wrapper.clip_grad) or training without --amp, and look at the images and masks of this '
            'batch.'
        )
