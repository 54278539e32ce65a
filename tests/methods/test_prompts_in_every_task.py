"""Text prompts that came after the first train or serve in DenseCLIP, MaskCLIP and a detector, by config alone."""

from __future__ import annotations

import pytest
import torch
from detection import toy_detector
from methods import test_prompts_in_segmentors as segmentors

TEXTS = {name: [f'This is {name}.', f'A photo of a {name}.'] for name in ('background', 'circle', 'square', 'red star')}
PROMPTS = dict(
    CuPLPrompt=dict(sentences=TEXTS),
    LASPPrompt=dict(templates=['a photo of a {}.', '{}.'], all_names=[*TEXTS, 'ring']),
    SubPTPrompt=dict(num_contexts=4, novel_names=['ring']),
    VCDPrompt=dict(descriptors=TEXTS),
)
VARIANTS = {
    'VCDPrompt-max': dict(descriptors=TEXTS, aggregate='max'),
    'VariationalPrompt': dict(num_samples=2),
    'VariationalPrompt-conditional': dict(num_samples=2, conditional=True),
}


def prompt(name: str) -> dict:
    return dict(type=f'vlm_dense.{name.partition("-")[0]}', **{**PROMPTS, **VARIANTS}[name])


def check_step(model, losses: dict) -> None:
    """Losses and gradients are finite, and reach all that the prompt has learned."""
    total, values = model.parse_losses(losses)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in values.values())
    learned = [p for n, p in model.named_parameters() if 'text_prompt' in n and p.requires_grad]
    if learned or total.requires_grad:
        total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learned)
    assert not learned or any(p.grad.abs().sum() > 0 for p in learned)


@pytest.mark.parametrize(
    ('name', 'build'),
    [
        *((name, segmentors.denseclip) for name in (*PROMPTS, *VARIANTS)),
        *((name, segmentors.maskclip) for name in (*PROMPTS, *VARIANTS)),
    ],
)
def test_a_segmentor_takes_the_prompt(name, build):
    torch.manual_seed(0)
    model, images = build(prompt(name)), torch.randn(2, 3, 64, 64)
    model.train()
    check_step(model, model.loss(images, segmentors.samples()))
    model.eval()
    with torch.no_grad():
        predicted = model.predict(images, segmentors.samples())
    assert all(torch.isfinite(p.seg_logits.data).all() for p in predicted)
    assert all(p.pred_sem_seg.data.shape == (1, 64, 64) for p in predicted)


@pytest.mark.parametrize('name', [*PROMPTS, *VARIANTS])
def test_a_detector_takes_the_prompt(name):
    text = dict(toy_detector.TEXT['text_encoder'], context_length=24)
    model = toy_detector.build('retinanet', text_prompt=prompt(name), text_encoder=text).train()
    boxes, images = [[[4, 6, 40, 50]], [[10, 12, 52, 44]]], torch.randn(2, 3, 64, 64)
    check_step(model, model.loss(images, toy_detector.samples(boxes, (64, 64))))
    model.eval()
    with torch.no_grad():
        found = model.predict(images, toy_detector.samples([[], []], (64, 64)))
    assert all(torch.isfinite(sample.pred_instances.scores).all() for sample in found)
