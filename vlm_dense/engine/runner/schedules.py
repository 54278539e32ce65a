"""Schedules with a warm-up that mmengine's chained ones cannot say: by closed forms, for each group of parameters."""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from vlm_dense.errors import ConfigError
from vlm_dense.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmUpCosineLR(LRSchedulerMixin, _ParamScheduler):
    """A constant rate in the first W epochs, then ``lr / 2 * (1 + cos(pi * (e - W) / T_max))``: CoOp's and Dassl's.

    The rate of the warm-up is the same for all groups of parameters, whatever their ``lr_mult`` is. A group with
    another W says so itself: ``paramwise_cfg=dict(custom_keys={'text_prompt.ctx': dict(lr_mult=0.2, warmup=1)})``.

    Args:
        optimizer: What has the rate.
        T_max: Epochs of the training.
        warmup: W.
        warmup_lr: Rate of these epochs.
        **kwargs: ``begin``, ``end``, ``by_epoch`` as in mmengine.

    Raises:
        ConfigError: a warm-up of fewer than 0 epochs, or longer than the training.
    """

    def __init__(self, optimizer, T_max: int, warmup: int = 1, warmup_lr: float = 1e-5, **kwargs: Any):
        self.T_max, self.warmup_lr = T_max, warmup_lr
        self.warmups = [group.get('warmup', warmup) for group in optimizer.param_groups]
        wrong = [length for length in self.warmups if not 0 <= length < T_max]
        if wrong:
            raise ConfigError(
                f'WarmUpCosineLR: a warm-up of {wrong[0]} epochs does not fit into {T_max}. Shorten warmup, also where '
                'paramwise_cfg.custom_keys gives one.'
            )
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        def rate(base: float, warmup: int) -> float:
            step = self.last_step - warmup
            return self.warmup_lr if step < 0 else base / 2 * (1 + math.cos(math.pi * step / self.T_max))

        return [rate(base, warmup) for base, warmup in zip(self.base_values, self.warmups, strict=True)]


@PARAM_SCHEDULERS.register_module()
class WarmUpPolyLR(LRSchedulerMixin, _ParamScheduler):
    """A polynomial decay from the first step on, times a factor that grows linearly in the first W steps: mmcv's.

    In step i the rate is ``((lr - eta_min) * (1 - i / total) ** power + eta_min) * warm``, with ``warm`` =
    ``1 - (1 - i / W) * (1 - ratio)`` for i < W, else 1.

    Args:
        optimizer: What has the rate.
        total: Steps of the training.
        power, eta_min: See above.
        warmup: W; 0 for none.
        warmup_ratio: The factor of the first step.
        **kwargs: ``begin``, ``end``, ``by_epoch`` as in mmengine.
    """

    def __init__(
        self,
        optimizer,
        total: int,
        power: float = 0.9,
        eta_min: float = 0.0,
        warmup: int = 0,
        warmup_ratio: float = 1e-6,
        **kwargs: Any,
    ):
        self.total, self.power, self.eta_min = total, power, eta_min
        self.warmup, self.warmup_ratio = warmup, warmup_ratio
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        step = self.last_step
        left = (1 - min(step, self.total) / self.total) ** self.power
        warm = 1.0 if step >= self.warmup else 1 - (1 - step / self.warmup) * (1 - self.warmup_ratio)
        return [((base - self.eta_min) * left + self.eta_min) * warm for base in self.base_values]
