"""Every registered prompt in F-VLM and F-ViT, with batches of 1, 2 and 3: it trains, or a message refuses it."""

from __future__ import annotations

import copy

import pytest
import torch
from detection.open_vocabulary_models import batch, build
from matrix.test_matrix import given, parts_of, prepared
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn

from vlm_dense.contract import ImagePrompt, TextPrompt
from vlm_dense.errors import UserError
from vlm_dense.registry import MODELS

pytestmark = [pytest.mark.long, pytest.mark.usefixtures('mmdet_scope')]
NAMES = ['circle', 'red star']  # with the background those of the matrix, which are all that some prompts know
PROMPTS = sorted({*parts_of(TextPrompt), *parts_of(ImagePrompt)})
SIZE = 96
BOXES = torch.tensor([[4.0, 6.0, 28.0, 30.0], [30.0, 20.0, 60.0, 58.0], [0.0, 0.0, 64.0, 64.0]])


@torch.no_grad()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    """Scores (B, n, R) of the same boxes on each image."""
    maps, rois = model.extract_feat(images), bbox2roi([BOXES] * len(images))
    found = model.roi_head.scores(model.roi_head._bbox_forward(maps, rois)['cls_score'], rois)
    assert found.shape[1] == len(NAMES) + 1
    return found.unflatten(0, (len(images), -1))


def check(kind: str, name: str) -> None:
    """Raises what the parts raise."""
    parts = given(name)
    if name == 'VPPrompt':
        parts['image_prompt']['image_size'] = SIZE
    model = prepared(build(kind, class_names=NAMES, **parts))
    part = next(m for m in model.modules() if type(m) is MODELS.get(name))
    images, samples = batch(3, size=SIZE)
    alone = torch.cat([scores(model, images[i : i + 1]) for i in range(3)])
    for number in (2, 3):
        torch.testing.assert_close(scores(model, images[:number]), alone[:number], rtol=1e-3, atol=1e-4)
    model.train()
    for number in (1, 2, 3):
        model.zero_grad()
        total, _ = model.parse_losses(model.loss(images[:number], copy.deepcopy(samples[:number])))
        assert torch.isfinite(total)
        total.backward()
        trained = [p for p in part.parameters() if p.requires_grad]
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
        assert not trained or any(p.grad is not None and p.grad.abs().max() > 0 for p in trained), 'no gradient at all'


@pytest.mark.parametrize('kind', ['f_vlm', 'f_vit'])
@pytest.mark.parametrize('name', PROMPTS)
def test_it_trains_or_is_refused_with_a_message(name, kind, record_property):
    try:
        check(kind, name)
    except UserError as refusal:
        assert len(str(refusal)) > 40, refusal
        record_property('detectors', f'refused: {refusal}')
    else:
        record_property('detectors', 'trained')
