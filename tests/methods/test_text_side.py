"""One text side for all tasks: MaskCLIP keeps the contract, and what is remembered is never stale."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from vlm_dense.clip.digest import BoundedCache, weights_digest
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

NAMES = ['sky', 'road', 'red car']
TINY = dict(arch='tiny-vit', pretrained='bundled')


def maskclip(prompt: dict, **options):
    return MODELS.build(
        dict(
            type='vlm_dense.MaskCLIP',
            backbone=dict(type='vlm_dense.MaskCLIPViT', **TINY),
            text_encoder=dict(type='vlm_dense.TextTower', **TINY),
            text_prompt=prompt,
            class_names=NAMES,
            **options,
        )
    )


def denseclip_like(prompt: dict):
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', head=True, **TINY),
            text_encoder=dict(type='vlm_dense.TextTower', **TINY),
            text_prompt=prompt,
            class_names=NAMES,
        )
    )


PROMPTS = {
    'dualcoop': dict(text_prompt=dict(type='vlm_dense.DualCoOpPrompt', num_contexts=2)),
    'cocoop': dict(text_prompt=dict(type='vlm_dense.CoCoOpPrompt', num_contexts=2)),
    'maple': dict(text_prompt=dict(type='vlm_dense.MaPLePrompt', depth=2)),
    'ivlp': dict(text_prompt=dict(type='vlm_dense.IVLPPrompt')),
    'vpt': dict(
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'), image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=2)
    ),
}


@pytest.mark.parametrize('name', PROMPTS)
@pytest.mark.parametrize('batch', [1, 2, 3])
def test_copies_of_an_image_get_equal_maps_in_maskclip(name, batch):
    parts = PROMPTS[name]
    model = maskclip(parts['text_prompt'], **{k: v for k, v in parts.items() if k != 'text_prompt'}).eval()
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        maps = model._forward(image.expand(batch, -1, -1, -1))
        alone = model._forward(image)
    assert maps.shape[:2] == (batch, len(NAMES))
    for one in maps:
        torch.testing.assert_close(one, alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', PROMPTS)
def test_a_step_of_maskclip_trains_the_prompt(name):
    parts = PROMPTS[name]
    model = maskclip(parts['text_prompt'], **{k: v for k, v in parts.items() if k != 'text_prompt'}).train()
    labels = torch.randint(0, len(NAMES), (2, 1, 32, 32))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels]
    total, _ = model.parse_losses(model.loss(torch.randn(2, 3, 32, 32), samples))
    total.backward()
    trained = [p for p in model.decode_head.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_the_prompt_says_what_is_compared():
    model = maskclip(dict(type='vlm_dense.ZeroShotPrompt')).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model._forward(images)
        model.text_side.text_prompt.classifier_weights = lambda t: 3 * F.normalize(t, dim=-1)
        torch.testing.assert_close(model._forward(images), 3 * before)


def test_a_head_alone_refuses_prompts_of_images():
    head = dict(
        type='vlm_dense.MaskCLIPHead',
        text_encoder=dict(type='vlm_dense.TextTower', **TINY),
        class_names=NAMES,
        text_prompt=dict(type='vlm_dense.MaPLePrompt'),
    )
    with pytest.raises(ConfigError, match='MaPLePrompt.*MaskCLIP'):
        MODELS.build(head)


@pytest.mark.parametrize('make', [maskclip, denseclip_like])
@pytest.mark.parametrize('change', ['load', 'edit', 'data', 'encoder'])
def test_an_answer_follows_every_change_of_the_weights_in_eval(make, change):
    model = make(dict(type='vlm_dense.CoOpPrompt', num_contexts=2)).eval()
    images = torch.randn(2, 3, 32, 32)

    def answer(of) -> torch.Tensor:
        with torch.no_grad():
            return of._forward(images) if hasattr(of, 'decode_head') else of(images)

    before = answer(model)
    prompt = model.text_side.text_prompt
    if change == 'load':
        prompt.load_state_dict({'ctx': torch.randn_like(prompt.ctx)})
    elif change == 'edit':
        with torch.no_grad():
            prompt.ctx.add_(torch.randn_like(prompt.ctx))
    elif change == 'data':
        prompt.ctx.data[[0, 1]] = prompt.ctx.data[[1, 0]]  # no version counts this
    else:
        model.text_side.text_encoder.ln_final.weight.data.mul_(2)
    fresh = copy.deepcopy(model).eval()
    assert not torch.allclose(answer(model), before, atol=1e-5)
    torch.testing.assert_close(answer(model), answer(fresh))


@pytest.mark.parametrize('make', [maskclip, denseclip_like])
def test_autocast_and_float32_take_turns_in_eval(make):
    model = make(dict(type='vlm_dense.CoOpPrompt', num_contexts=2)).eval()
    images = torch.randn(1, 3, 32, 32)

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return model._forward(images) if hasattr(model, 'decode_head') else model(images)

    plain = answer()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = answer()
    torch.testing.assert_close(answer(), plain)
    assert half.dtype == torch.float32 and (half - plain).abs().max() > 0


def test_cosines_are_taken_in_float32_under_autocast():
    model = maskclip(dict(type='vlm_dense.ZeroShotPrompt')).eval()
    dim = model.backbone.embed_dim
    value, text = torch.randn(1, dim, 8, 8), torch.randn(3, dim)

    with torch.autocast('cpu', dtype=torch.bfloat16):
        scores = model.text_side.scores(value, text)
    exact = torch.einsum('bdhw,kd->bkhw', F.normalize(value.double(), dim=1), F.normalize(text.double(), dim=1))
    assert scores.dtype == torch.float32 and (scores - exact).abs().max() < 1e-6


def test_name_lists_do_not_pile_up():
    model = maskclip(dict(type='vlm_dense.ZeroShotPrompt')).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = model.extract_feat(image)
        for n in range(40):
            model.decode_head(features, model.decode_head.parse_classes([f'thing {n}', 'sky']))
    known = model.decode_head.text_encoder._encoded
    assert len(known) == known.size


def test_a_digest_sees_every_change():
    layer = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.LayerNorm(5), torch.nn.Conv2d(3, 4, 3))
    before = weights_digest(layer)
    assert weights_digest(copy.deepcopy(layer)) == before
    weight = layer[0].weight.data
    for i, j in (((0, 0), (0, 1)), ((0, 0), (3, 2)), ((1, 2), (4, 2))):  # within a row, across, within a column
        a, b = weight[i].clone(), weight[j].clone()
        weight[i], weight[j] = b, a
        assert weights_digest(layer) != before
        weight[i], weight[j] = a, b
    assert weights_digest(layer) == before
    layer[1].eps = 1e-3
    assert weights_digest(layer) != before
    with torch.inference_mode():
        weights_digest(torch.nn.Linear(2, 2))


def test_a_cache_forgets_what_was_not_asked_for():
    cache, computed = BoundedCache(2), []
    for key in 'abcab':
        cache.get(key, lambda key=key: computed.append(key) or torch.zeros(1))
    assert computed == list('abcab') and len(cache) == 2
    cache.get('b', lambda: pytest.fail('computed again'))
