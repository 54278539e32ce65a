"""Mixing weights after a fine-tuning, and what each mixture can do."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from vlm_dense.classification.hooks import evaluate
from vlm_dense.clip.loading import read_state_dict
from vlm_dense.engine.prepare import bare_model, save_result
from vlm_dense.errors import CheckpointError
from vlm_dense.methods.others.wise_ft import from_release, interpolate
from vlm_dense.registry import HOOKS

ZERO_SHOT = 'zero_shot.pth'
CURVE = 'robustness.json'


@HOOKS.register_module()
class WiSEFTHook(Hook):
    """Mix the weights before and after training, see :func:`~vlm_dense.methods.others.wise_ft.interpolate`.

    Weights before training are kept in ``zero_shot.pth`` in the work dir. After training all ``alphas`` are tested on
    ``test_dataloader`` and on ``shifts`` by ``test_evaluator``: the robustness curve, in the log and in
    ``robustness.json``. Nothing is chosen by it: the model is then mixed by ``alpha`` and saved as ``wise_ft.pth``.

    A state dict of the official code can be loaded where a checkpoint of the runner can.

    Args:
        alpha: Of the model that is kept; 0.5 is the paper's advice.
        alphas: Of the curve.
        shifts: Name -> loader config of further test sets, as of shifted domains.
        fisher: Files of Fisher information of the model before and after training, state dicts with our names or
            those of the official code. Default: plain interpolation.
        floor: Least Fisher information.

    Raises:
        CheckpointError: a run was resumed whose weights before training are gone.
    """

    priority = 'HIGHEST'  # names of a release are changed before it is looked at whether it fits

    def __init__(
        self,
        alpha: float = 0.5,
        alphas: Sequence[float] = tuple(i / 10 for i in range(11)),
        shifts: dict[str, dict] | None = None,
        fisher: Sequence[str] | None = None,
        floor: float = 1e-8,
    ):
        self.alpha, self.alphas, self.shifts, self.floor = alpha, tuple(alphas), shifts or {}, floor
        self.mixed = False
        self.fishers = None if fisher is None else [_fisher(path) for path in fisher]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Rename what the official code saved; the text tower is that of the model."""
        self.mixed = 'wise_ft' in checkpoint.get('meta', {})
        weights = checkpoint.get('state_dict', checkpoint)
        if 'classification_head.weight' not in weights:
            return
        own = bare_model(runner).state_dict()
        text = {key: value for key, value in own.items() if not key.startswith(('backbone.', 'head.'))}
        weights = text | from_release(weights)
        checkpoint.clear()
        checkpoint.update(meta={}, state_dict=weights)

    def before_train_epoch(self, runner: Runner) -> None:
        """Keep the weights from before the first iteration."""
        if runner.iter == 0 and runner.rank == 0:
            torch.save(_mixed_part(bare_model(runner)), os.path.join(runner.work_dir, ZERO_SHOT))

    def after_train(self, runner: Runner) -> None:
        """Test the mixtures and keep one; nothing if the run was resumed from one."""
        if self.mixed:
            return
        path = os.path.join(runner.work_dir, ZERO_SHOT)
        if not os.path.isfile(path):
            raise CheckpointError(
                f'WiSE-FT mixes with the weights from before training, and {path} does not exist. Resume in the work '
                'dir in which the training began.'
            )
        model = bare_model(runner)
        zero_shot = torch.load(path, weights_only=True, map_location='cpu')
        tuned = {key: value.clone() for key, value in _mixed_part(model).items()}

        def mix(alpha: float) -> None:
            model.load_state_dict(interpolate(zero_shot, tuned, alpha, self.fishers, self.floor), strict=False)

        loaders = {'test': runner.test_loop.dataloader} if runner.test_loop is not None else {}
        loaders |= {name: Runner.build_dataloader(loader) for name, loader in self.shifts.items()}
        curve = []
        for alpha in self.alphas if loaders else ():
            mix(alpha)
            found = {name: evaluate(runner, loader) for name, loader in loaders.items()}
            curve.append(dict(alpha=alpha, **found))
            figures = '; '.join(
                f'{name}: ' + ', '.join(f'{k} {v:.2f}' for k, v in m.items()) for name, m in found.items()
            )
            runner.logger.info(f'WiSE-FT, alpha {alpha:.2f}: {figures}')
        if runner.rank == 0:
            with open(os.path.join(runner.work_dir, CURVE), 'w', encoding='utf-8') as file:
                json.dump(curve, file, indent=1)
        mix(self.alpha)
        save_result(runner, 'wise_ft.pth', dict(wise_ft=self.alpha))
        runner.logger.info(f'WiSE-FT: the model with alpha {self.alpha} is {runner.work_dir}/wise_ft.pth')


def _mixed_part(model: nn.Module) -> dict[str, Tensor]:
    parts = ('head.',) if model.frozen_backbone else ('backbone.', 'head.')
    return {key: value.detach() for key, value in model.state_dict().items() if key.startswith(parts)}


def _fisher(path: str) -> dict[str, Tensor]:
    weights = read_state_dict(path)
    return from_release(weights) or weights
