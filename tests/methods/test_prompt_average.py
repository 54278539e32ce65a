"""PromptSRC's mean over the epochs, by hand; what is refused; what runs without training."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from methods.small import classifier
from torch import nn

from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.methods.joint_prompts import PromptAverageHook
from vlm_dense.methods.joint_prompts.promptsrc import gaussian_weights


def run(model, epoch: int, epochs: int = 3, resume: bool = True) -> SimpleNamespace:
    return SimpleNamespace(
        model=model, epoch=epoch, max_epochs=epochs, logger=logging.getLogger('test'), _resume=resume
    )


def test_parameters_become_the_weighted_mean_at_the_end_only():
    model, hook = nn.Linear(2, 2), PromptAverageHook(mean=2.0, std=1.0)
    model.bias.requires_grad_(False)
    hook.weights, expected = gaussian_weights(3, 2.0, 1.0), torch.zeros(2, 2)
    torch.testing.assert_close(
        hook.weights, torch.tensor([0.2741, 0.4519, 0.2741], dtype=torch.float64), atol=1e-4, rtol=0
    )
    for epoch in range(3):
        model.weight.data.normal_()
        expected += hook.weights[epoch] * model.weight.detach()
        before = model.weight.detach().clone()
        hook.after_train_epoch(run(model, epoch))
        assert torch.equal(model.weight, before) == (epoch < 2)
    torch.testing.assert_close(model.weight.detach(), expected)


def test_the_sum_goes_on_from_a_checkpoint_of_the_same_training():
    model, hook, checkpoint = nn.Linear(2, 2), PromptAverageHook(2.0, 1.0), {}
    hook.weights = gaussian_weights(3, 2.0, 1.0)
    hook.after_train_epoch(run(model, 0))
    hook.before_save_checkpoint(run(model, 0), checkpoint)
    other = PromptAverageHook(2.0, 1.0)
    other.after_load_checkpoint(run(model, 1), checkpoint)
    assert all(torch.equal(other.sum[name], value) for name, value in hook.sum.items())
    with pytest.raises(CheckpointError, match='3 epochs'):
        other.after_load_checkpoint(run(model, 1, epochs=4), checkpoint)
    with pytest.raises(CheckpointError, match='another training'):
        other.after_load_checkpoint(run(model, 1), {})
    PromptAverageHook(2.0, 1.0).after_load_checkpoint(run(model, 1, resume=False), {})


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match='std'):
        PromptAverageHook(2.0, 0.0)
    with pytest.raises(ConfigError, match='iterations'):
        PromptAverageHook(2.0, 1.0).before_train(SimpleNamespace(train_loop=None))
    with pytest.raises(ConfigError, match='template'):
        classifier(['circle'], dict(type='vlm_dense.PromptSRCPrompt', templates=['a photo'], depth=1, visual_depth=1))


def test_frozen_clip_is_not_asked_outside_of_training():
    model = classifier(['circle', 'star'], dict(type='vlm_dense.PromptSRCPrompt', depth=2, visual_depth=2))
    assert model.text_prompt.plain == () and model.train().text_prompt.plain == ('global',)
