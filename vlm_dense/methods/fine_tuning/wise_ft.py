"""WiSE-FT: a fine-tuned model and its zero-shot beginning, mixed weight by weight.

CLIP's image tower is fine-tuned together with a linear head that starts from the class embeddings. Then all weights
are interpolated between the zero-shot and the fine-tuned model. The mixture keeps much of the robustness of zero-shot
CLIP and costs nothing at inference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.loading import read_nested, read_state_dict
from vlm_dense.contract.preparation import Prepared
from vlm_dense.contract.roles import Head
from vlm_dense.engine.hooks.prepare import save_result
from vlm_dense.engine.models import bare_model
from vlm_dense.engine.runner.evaluation import evaluate
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.registry import HOOKS, MODELS

PAPER = dict(
    name='WiSE-FT',
    title='Robust fine-tuning of zero-shot models',
    venue='CVPR 2022',
    link='https://arxiv.org/abs/2109.01903',
    code='https://github.com/mlfoundations/wise-ft',
    licence='MIT',
    idea='The weights before and after a fine-tuning, mixed.',
    trains='the image tower and a linear classifier; then mixes old and new weights',
    contract='Hook that mixes weights; templates; linear, from the text; CE',
)


ZERO_SHOT = 'zero_shot.pth'
CURVE = 'robustness.json'


@MODELS.register_module()
class WiSEFTHead(Prepared, Head, BaseModule):
    """``W n(f) + b`` of the unit feature; begins as class embeddings times CLIP's temperature and 0 (section 3).

    ``PrepareHook`` takes the beginning from the classifier's text prompt, that is from any hand-written ensemble.

    Args:
        class_names, image_tower: The classifier's; give K and D.

    Attributes:
        weight, bias: W (K, D) and b (K,); ``classification_head.*`` of the release.
    """

    text = False

    def __init__(self, class_names: Sequence[str], image_tower: ImageTower):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(class_names), image_tower.embed_dim))
        self.bias = nn.Parameter(torch.zeros(len(class_names)))

    @torch.no_grad()
    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Begin with the zero-shot classifier; no data are read."""
        self.weight.copy_(model.text_encoder.logit_scale.exp() * model.text_side.classifier_weights())
        self.bias.zero_()
        self.prepared = True

    def logits(self, features: ImageFeatures, text: None, logit_scale: Tensor) -> Tensor:
        """(B, K)."""
        self.check_prepared()
        return F.linear(F.normalize(features.global_, dim=-1), self.weight, self.bias)


def interpolate(
    zero_shot: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    alpha: float,
    fishers: Sequence[Mapping[str, Tensor]] | None = None,
    floor: float = 1e-8,
) -> dict[str, Tensor]:
    """``(1 - alpha) * zero_shot + alpha * tuned`` for every entry of two state dicts (section 4).

    With Fisher information F of both models, entries are weighted by ``(1 - alpha) max(F_0, floor)`` and
    ``alpha max(F_1, floor)`` instead of that; entries without it by 1 - alpha and alpha.

    Args:
        zero_shot, tuned: State dicts of the same names and shapes.
        alpha: 0 to 1.
        fishers: (F_0, F_1), name -> tensor.
        floor: See above.

    Returns:
        The mixture, in the dtypes of ``tuned``; integers are rounded down.

    Raises:
        ConfigError: alpha outside of 0 to 1.
        CheckpointError: the state dicts differ in names, or only one of the Fishers has an entry.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f'WiSE-FT: alpha must lie between 0 and 1, found {alpha}.')
    before, after = fishers or ({}, {})
    for what, one, other in (('state dicts', zero_shot, tuned), ('Fisher information', before, after)):
        lonely = sorted(set(one) ^ set(other))
        if lonely:
            raise CheckpointError(
                f'WiSE-FT: {len(lonely)} entries are in one of the two {what} only, first {lonely[0]}. Take both from '
                'the same architecture.'
            )
    mixed = {}
    for key, value in tuned.items():
        start, weights = zero_shot[key].to(value.device).float(), (1 - alpha, alpha)
        if key in before:
            fisher = (f[key].to(value.device).clamp(min=floor) for f in (before, after))
            weights = [weight * f for weight, f in zip(weights, fisher, strict=True)]
        total = weights[0] + weights[1]
        mixed[key] = ((weights[0] * start + weights[1] * value.float()) / total).to(value.dtype)
    return mixed


def from_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of the official ``ImageClassifier`` under the names of a classifier here.

    Entries of the text side, which the official code keeps and never trains, are left out. The official checkpoint is a
    pickled module; its ``state_dict()`` has to be saved where its code is installed.
    """
    ours = {'image_encoder.model.visual.': 'backbone.', 'classification_head.': 'head.'}
    return {
        new + key.removeprefix(old): value
        for key, value in weights.items()
        for old, new in ours.items()
        if key.startswith(old)
    }


@HOOKS.register_module()
class WiSEFTHook(Hook):
    """Mix the weights before and after training, see :func:`interpolate`.

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
        CheckpointError: a run was resumed without its weights before training.
    """

    priority = 'HIGHEST'  # names of a release are converted before the check of the fit

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
        zero_shot = read_nested(path)
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
