"""Every registered prompt and head in every task: it trains, or it is refused with a message that names the way out.

A new part is in the matrix by being registered. What it cannot be built without stands in ``OPTIONS``.
"""

from __future__ import annotations

import pytest
import torch
from matrix.models import NAMES, SIZE, TASKS, build, output, samples
from tiny_encoder import TinyEncoder

from vlm_dense.contract import Head, ImagePrompt, TextPrompt
from vlm_dense.errors import UserError
from vlm_dense.registry import MODELS

WRITTEN = {name: [f'a drawing of a {name}', f'a {name} on paper'] for name in NAMES}
OPTIONS: dict[str, dict] = dict(
    CoCoOpPrompt=dict(reduction=4),
    CuPLPrompt=dict(sentences=WRITTEN),
    VCDPrompt=dict(descriptors=WRITTEN),
    DeepTextPrompt=dict(depth=2),
    MaPLePrompt=dict(depth=2),
    IVLPPrompt=dict(depth=2, visual_depth=2),
    PromptSRCPrompt=dict(depth=2, visual_depth=2),
    RePrompt=dict(shots=1, depth=2, num_neighbours=1),
    SVLAdapter=dict(encoder=dict(type=TinyEncoder), alpha=0.2),
    SoftCPTPrompt=dict(tasks={'drawn shapes': len(NAMES)}),
    VPPrompt=dict(image_size=SIZE),
    TCPPrompt=dict(block=1),
    UPLPrompt=dict(num_members=2, num_contexts=4),
    TipAdapter=dict(shots=1),
    APE=dict(shots=1, channels=8),
    APET=dict(shots=1, channels=8),
    TipAdapterF=dict(shots=1),
)


def parts_of(kind: type) -> list[str]:
    """Names of the registered parts of a role."""
    MODELS.import_from_location()
    return sorted(name for name, part in MODELS._module_dict.items() if issubclass(part, kind))


PARTS = sorted({name for kind in (TextPrompt, ImagePrompt, Head) for name in parts_of(kind)})
COMBINATIONS = [(name, task) for name in PARTS for task in TASKS]


def given(name: str) -> dict:
    """The model's arguments for a part."""
    part, cfg = MODELS.get(name), dict(type=f'vlm_dense.{name}', **OPTIONS.get(name, {}))
    if issubclass(part, TextPrompt):
        return dict(text_prompt=cfg)
    plain = dict(text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',)))
    return dict(plain, image_prompt=cfg) if issubclass(part, ImagePrompt) else dict(plain, head=cfg)


def prepared(model: torch.nn.Module) -> torch.nn.Module:
    """The model; its parts that are fitted to data before use are filled with numbers."""
    for module in model.modules():
        if hasattr(module, 'prepared'):
            module.prepared = True
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point() and not tensor.any():
                    torch.nn.init.normal_(tensor.data, std=0.1)
    return model


def check(name: str, task: str, tower: str) -> None:
    """A step, copies of one image, a state dict; raises what the parts raise."""
    model = prepared(build(task, tower, given(name)))
    part = next(m for m in model.modules() if type(m) is MODELS.get(name))
    image = torch.randn(1, 3, SIZE, SIZE)

    model.eval()
    alone = output(task, model, image)
    for number in (2, 3):
        for one, several in zip(alone, output(task, model, image.expand(number, -1, -1, -1)), strict=True):
            assert len(several) == number
            for copy in several:
                torch.testing.assert_close(copy, one[0], rtol=1e-3, atol=1e-4)
    again = prepared(build(task, tower, given(name)))
    again.load_state_dict(model.state_dict())
    for one, other in zip(alone, output(task, again.eval(), image), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)

    model.train()
    for number in (1, 2, 3):
        model.zero_grad()
        losses = model.loss(torch.randn(number, 3, SIZE, SIZE), samples(task, number))
        total, _ = model.parse_losses(losses)
        assert torch.isfinite(total)
        trained = {k: p for k, p in part.named_parameters() if p.requires_grad}
        if trained:
            total.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in trained.values())
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values()), 'no gradient at all'


@pytest.mark.parametrize(('name', 'task'), COMBINATIONS, ids=lambda value: value)
def test_it_trains_or_is_refused_with_a_message(name, task, record_property):
    refusals = []
    for tower in ('vit', 'resnet'):
        try:
            check(name, task, tower)
        except UserError as refusal:
            assert len(str(refusal)) > 40, refusal
            refusals.append(str(refusal))
        else:
            record_property('matrix', f'trained on {tower}')
            return
    record_property('matrix', f'refused: {refusals[0]}')
