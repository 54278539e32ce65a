"""Weights before and after a distillation, mixed, in a file that any ``pretrained=`` reads."""

from __future__ import annotations

import os

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from vlm_dense.clip.activation import OPENAI_ENTRIES
from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.recent_file import read_once
from vlm_dense.clip.sources import locate_weights
from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.models import bare_model
from vlm_dense.engine.runner.evaluation import evaluate
from vlm_dense.errors import ConfigError
from vlm_dense.registry import HOOKS

_OWN = ('dense_attention.', 'image_prompt.', 'fpn')
"""Parts of a tower that are none of CLIP's."""


def mixed(before: dict[str, Tensor], after: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """``(1 - alpha) * before + alpha * after`` of every entry of two state dicts of the same names."""
    return {key: torch.lerp(before[key].float(), value.float(), alpha).to(value.dtype) for key, value in after.items()}


def tower_weights(tower: nn.Module) -> dict[str, Tensor]:
    """CLIP's own entries of a tower's state dict."""
    return {key: value.detach() for key, value in tower.state_dict().items() if not key.startswith(_OWN)}


def whole_clip(weights: dict[str, Tensor], tower: nn.Module, arch: str | dict, pretrained: str | None) -> dict:
    """State dict of a CLIP with another image tower: the text side is that of the file it began with.

    Args:
        weights: State dict of the image tower.
        tower: It; only its activation is looked at, which the file notes as OpenAI's does.
        arch, pretrained: See :func:`vlm_dense.clip.load_clip`; without ``pretrained`` the image tower is alone.
    """
    config = model_config(arch)
    path, _ = locate_weights(arch, config, pretrained)
    found = {} if path is None else {k: v for k, v in read_once(path).items() if not k.startswith('visual.')}
    found |= {f'visual.{key}': value.cpu().contiguous() for key, value in weights.items()}
    if any(isinstance(module, QuickGELU) for module in tower.modules()):
        size, text = config['vision_cfg']['image_size'], config['text_cfg']
        numbers = (size, text['context_length'], text['vocab_size'])
        found |= {key: torch.tensor(number) for key, number in zip(OPENAI_ENTRIES, numbers, strict=True)}
    return found


@HOOKS.register_module()
class MixedTowerHook(Hook):
    """After training, mix the tower's weights with those that it began with, test the mixture, and write it.

    The file, a dict with ``state_dict``, has the whole CLIP under the names of its architecture, so that
    ``pretrained=FILE`` of a tower and of a text tower reads it. The run itself goes on from the trained weights:
    checkpoints and resumed runs hold these.

    Where the config has ``test_dataloader`` the tower is tested before the training and, mixed, after it.

    Args:
        alpha: Share of the trained weights, 0 to 1.
        name: Of the file in the work dir.

    Raises:
        ConfigError: alpha outside of 0 to 1, or below 1 for a model with a teacher that is not its beginning.
    """

    def __init__(self, alpha: float = 0.7, name: str = 'tower.pth'):
        if not 0 <= alpha <= 1:
            raise ConfigError(f'MixedTowerHook: alpha must lie between 0 and 1, found {alpha}.')
        self.alpha, self.name = alpha, name
        self.before: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Test the tower as it was."""
        model = bare_model(runner)
        if self.alpha < 1 and not model.teacher_is_beginning:
            raise ConfigError(
                f'MixedTowerHook: alpha={self.alpha} mixes with the weights from before training, which the model '
                'does not keep, as it has a teacher of its own. Set alpha=1, or leave out model.teacher.'
            )
        if runner.iter == 0 and runner.test_loop is not None:
            self.before = evaluate(runner)
            runner.logger.info(f'Before training: {_line(self.before)}')

    def after_train(self, runner: Runner) -> None:
        """Mix, test, write; the model is then as it was trained."""
        model = bare_model(runner)
        tower, cfg = model.backbone, runner.cfg.model.backbone
        trained = {key: value.clone() for key, value in tower_weights(tower).items()}
        weights = trained
        if self.alpha < 1:
            weights = mixed(tower_weights(model.teacher), trained, self.alpha)
        if runner.test_loop is not None:
            tower.load_state_dict(weights, strict=False)
            found = evaluate(runner)
            told = f' (before: {_line(self.before)})' if self.before else ''
            runner.logger.info(f'After training, {self.alpha:g} of the trained weights: {_line(found)}{told}')
            tower.load_state_dict(trained, strict=False)
        path = os.path.join(runner.work_dir, self.name)
        if is_main_process():
            content = whole_clip(weights, tower, cfg.get('arch', 'ViT-B-16'), cfg.get('pretrained'))
            with atomic_write(path) as begun:
                torch.save(dict(state_dict=content), begun)
        runner.logger.info(f'The tower is {path}; pretrained={path!r} loads it.')


def _line(metrics: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
