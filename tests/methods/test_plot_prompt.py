"""PLOT beyond the official figures: the plan against other algorithms, releases, other tasks, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods.test_prompts_in_segmentors import denseclip
from methods.test_prompts_in_segmentors import samples as pixels
from scipy.optimize import linprog
from tiny_towers import resnet

from vlm_dense.classification import ClsDataSample
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.methods.text_prompts.plot import transport_plan
from vlm_dense.registry import MODELS

ARCH = resnet()
NAMES = ['circle', 'tiger_shark', 'red star']


def build(names=NAMES, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            class_names=names,
            backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=dict(type='vlm_dense.PLOTPrompt', **dict(dict(num_prompts=3, num_contexts=2), **kwargs)),
        )
    ).eval()


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_with_little_entropy_is_the_cheapest():
    """Against a linear program, at an epsilon where the kernel underflows."""
    similarity = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plan, _ = transport_plan(similarity, epsilon=2e-3, max_iterations=3000, threshold=0.0)
    regions = np.kron(np.eye(5), np.ones(3))
    prompts = np.kron(np.ones(5), np.eye(3))
    masses = np.array([1 / 5] * 5 + [1 / 3] * 3)
    cheapest = linprog(1 - similarity.numpy().ravel(), A_eq=np.vstack([regions, prompts]), b_eq=masses)
    assert (plan * (1 - similarity)).sum().item() == pytest.approx(cheapest.fun, abs=2e-3)
    torch.testing.assert_close(plan.sum(2), torch.full((1, 5), 1 / 5), rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.sum(1), torch.full((1, 3), 1 / 3), rtol=0, atol=1e-4)


def test_the_stop_looks_at_the_mean_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    near, far = (scale * (torch.rand(2, 6, 4, generator=generator) * 2 - 1) for scale in (0.01, 1.0))
    few, many, both = (transport_plan(s)[1] for s in (near, far, torch.cat([near, far])))
    assert few < both <= many < 100
    assert transport_plan(far, max_iterations=3)[1] == 3


def test_one_region_or_one_prompt_leaves_nothing_to_choose():
    similarity = torch.rand(2, 7, 1)
    torch.testing.assert_close(transport_plan(similarity, threshold=0.0)[0], torch.full((2, 7, 1), 1 / 7))
    similarity = similarity.transpose(1, 2)
    torch.testing.assert_close(transport_plan(similarity, threshold=0.0)[0], torch.full((2, 1, 7), 1 / 7))


# --- the model --------------------------------------------------------------------------------------------------------


def test_one_prompt_scores_the_mean_cosine_of_the_regions():
    model = build(num_prompts=1, threshold=0.0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, text = model.text_side.encode(model.backbone, images, ('dense',))
        cosine = torch.cosine_similarity(features.dense.flatten(2)[:, None], text[0][None, :, :, None], dim=2)
        torch.testing.assert_close(model(images), model.text_encoder.logit_scale.exp() * cosine.mean(2))


def test_the_mean_of_the_prompts_is_a_variant_with_the_global_term_only():
    plain, model = build(), build(global_term=True)
    model.text_prompt.load_state_dict(plain.text_prompt.state_dict())
    with torch.no_grad():
        text, more = plain.text_side.class_embeddings(), model.text_side.class_embeddings()
    assert text.shape == (3, len(NAMES), 16) and plain.text_prompt.num_variants == 3
    assert more.shape == (4, len(NAMES), 16) and model.text_prompt.num_variants == 4
    torch.testing.assert_close(more[3], text.mean(0))


def test_a_release_loads_whatever_classes_it_was_trained_on(tmp_path):
    ctx = torch.randn(3, 2, 32)
    weights = dict(ctx=ctx, token_prefix=torch.zeros(15, 1, 32), token_suffix=torch.zeros(15, 74, 32))
    torch.save(dict(state_dict=weights, epoch=50), tmp_path / 'model.pth.tar-50')
    model = build(pretrained=str(tmp_path / 'model.pth.tar-50'))
    assert torch.equal(model.text_prompt.ctx, ctx)
    assert set(model.text_prompt.state_dict()) == {'ctx'}
    with pytest.raises(CheckpointError, match=r'expected \(4, 2, 32\), found \(3, 2, 32\)[\s\S]*has 4 prompts of 2'):
        build(num_prompts=4, pretrained=str(tmp_path / 'model.pth.tar-50'))


@pytest.mark.parametrize('global_term', [False, True])
def test_mixed_precision_changes_the_logits_by_rounding_only(global_term):
    model = build(global_term=global_term).train()
    images = torch.randn(2, 3, 64, 64)
    model.text_encoder.logit_scale.zero_()
    exact = model(images)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = model(images)
        losses = model(images, [ClsDataSample().set_label(1)] * 2, mode='loss')
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)
    losses['loss_ce'].backward()
    assert model.text_prompt.ctx.grad.isfinite().all() and model.text_prompt.ctx.grad.any()


@pytest.mark.parametrize('global_term', [False, True])
def test_it_trains_in_denseclip(global_term):
    prompt = dict(type='vlm_dense.PLOTPrompt', num_prompts=3, num_contexts=2, global_term=global_term)
    model = denseclip(prompt).train()
    model.parse_losses(model.loss(torch.randn(2, 3, 64, 64), pixels()))[0].backward()
    assert all(grad.any() for grad in model.text_prompt.ctx.grad)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('options', [dict(num_prompts=0), dict(max_iterations=0), dict(epsilon=0.0)])
def test_numbers_that_cannot_be_are_named(options):
    with pytest.raises(ConfigError, match='num_prompts and max_iterations must be at least 1 and epsilon positive'):
        build(**options)


def test_prompts_longer_than_the_tower_are_refused():
    with pytest.raises(ClassNamesError, match='PLOTPrompt: .*The context takes 74 of them'):
        build(num_contexts=74)


def test_a_kernel_that_underflows_gives_a_plan():
    similarity = torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]])
    plan, iterations = transport_plan(similarity, epsilon=1e-3)
    assert plan.isfinite().all() and iterations <= 100
    assert math.isclose(plan.sum().item(), 1.0, rel_tol=1e-4)
