"""Every registered text prompt in every trained open-vocabulary segmentor: it trains, or is refused with the reason."""

from __future__ import annotations

import pytest
import torch
from matrix.test_matrix import given, parts_of, prepared
from segmentation.open_models import BUILD, images, samples

from vlm_dense.contract import TextPrompt
from vlm_dense.errors import UserError
from vlm_dense.registry import MODELS

NAMES = ['background', 'circle', 'red star']
LARGE = ('maft_plus', 'mask_adapter_maft_plus')
"""Models with losses for images of at least 128 px."""


def check(name: str, kind: str) -> None:
    """Copies of one image, a state dict, a step with one, two and three images; raises what the parts raise."""
    size = (128, 128) if kind in LARGE else (32, 32)
    model = prepared(BUILD[kind](NAMES, **given(name))).eval()
    part = next(m for m in model.modules() if type(m) is MODELS.get(name))
    image = images(1, size)
    with torch.no_grad():
        alone = model._forward(image)
        assert alone.shape[:2] == (1, len(NAMES))
        for number in (2, 3):
            found = model._forward(image.expand(number, -1, -1, -1))
            torch.testing.assert_close(found, alone.expand_as(found), rtol=1e-3, atol=1e-4)
        again = prepared(BUILD[kind](NAMES, **given(name)))
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again.eval()._forward(image), alone, rtol=1e-4, atol=1e-5)
    model.train()
    for number in (1, 2, 3):
        model.zero_grad()
        total, _ = model.parse_losses(model.loss(images(number, size), samples(number, size)))
        assert torch.isfinite(total)
        trained = [p for p in part.parameters() if p.requires_grad]
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
        assert not trained or any(p.grad is not None and p.grad.any() for p in trained), 'no gradient at all'


@pytest.mark.parametrize('name', parts_of(TextPrompt))
@pytest.mark.parametrize('kind', BUILD)
def test_it_trains_or_is_refused_with_a_message(kind, name, record_property):
    try:
        check(name, kind)
    except UserError as refusal:
        assert len(str(refusal)) > 40, refusal
        record_property('matrix', f'refused: {refusal}')
    else:
        record_property('matrix', 'trained')
