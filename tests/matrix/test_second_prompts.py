"""A second prompt on the same towers, for other class names, changes nothing of the first, in any task."""

from __future__ import annotations

import copy

import pytest
import torch
from matrix.models import NAMES, SIZE, TASKS, build, output, samples
from matrix.test_matrix import given, parts_of, prepared

from vlm_dense.contract import ImagePrompt, TextPrompt
from vlm_dense.errors import UserError
from vlm_dense.registry import build_part

PROMPTS = sorted({*parts_of(TextPrompt), *parts_of(ImagePrompt)})
OTHERS = [NAMES[::-1], [*NAMES[1:], NAMES[0]], [NAMES[1], NAMES[0], NAMES[2]]]  # some prompts know these names only


def made(name: str, task: str, tower: str) -> torch.nn.Module:
    """A model in eval mode with a prompt that has learned something."""
    model = prepared(build(task, tower, given(name)))
    draw = torch.Generator().manual_seed(5)
    for key, parameter in model.named_parameters():
        if 'prompt' in key and parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


def change_names(model: torch.nn.Module, name: str, task: str, times: int) -> None:
    """Use prompts for other names, each on the towers of the model and with what its prompt has learned."""
    parts, mode = given(name), model.training
    model.eval()
    for names in OTHERS[:times]:
        owner = model.decode_head if task == 'maskclip' else model
        for role in ('text_prompt', 'image_prompt'):
            if role in parts:
                given_to = dict(class_names=names, text_tower=owner.text_encoder, image_tower=model.backbone)
                second = build_part(parts[role], **given_to).eval()
                second.load_state_dict(getattr(owner, role).state_dict())
        if task == 'maskclip':
            model.predict_lists(torch.randn(1, 3, SIZE, SIZE), samples(task, 1), [names])
    model.train(mode)


def trained(model: torch.nn.Module, task: str) -> set[str]:
    """A step of SGD; the names of the parameters that it reached."""
    model.train()
    model.zero_grad()
    torch.manual_seed(7)
    total, _ = model.parse_losses(model.loss(torch.randn(2, 3, SIZE, SIZE), samples(task, 2)))
    if total.requires_grad:
        total.backward()
    reached = {k: p for k, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    for parameter in reached.values():
        parameter.data -= 0.1 * parameter.grad / parameter.grad.norm()
    model.eval()
    return set(reached)


def check(name: str, task: str, tower: str) -> None:
    """Raises what the parts raise."""
    images = torch.randn(2, 3, SIZE, SIZE)

    def same(one: torch.nn.Module, other: torch.nn.Module) -> None:
        for a, b in zip(output(task, one, images), output(task, other, images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    for times in (1, 3):
        model = made(name, task, tower)
        untouched, reloaded = copy.deepcopy(model), copy.deepcopy(model)
        change_names(model, name, task, times)
        same(model, untouched)
        assert trained(model, task) == trained(untouched, task)
        same(model, untouched)
        change_names(model, name, task, times)
        same(model, untouched)
        change_names(reloaded, name, task, times)
        reloaded.load_state_dict(untouched.state_dict())
        same(reloaded, untouched)
        if task == 'maskclip':
            for names in (*OTHERS[:times], NAMES):
                model.set_class_names(names)
            same(model, untouched)
            assert trained(model, task) == trained(untouched, task)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('name', PROMPTS)
def test_a_second_prompt_does_not_change_the_first(name, task, record_property):
    for tower in ('vit', 'resnet'):
        try:
            check(name, task, tower)
        except UserError as refusal:
            record_property('second_prompt', f'refused: {refusal}')
        else:
            record_property('second_prompt', f'the same on {tower}')
            return
