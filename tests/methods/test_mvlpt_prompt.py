"""MVLPT beyond the official figures: releases, who sees whom, initial tokens, segmentors, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from methods.test_image_prompts import ARCH, RESNET, build, release
from methods.test_image_prompts import test_prompts_train_in_a_denseclip_vit as train_in_a_denseclip_vit

from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.registry import MODELS


@pytest.fixture(scope='module')
def towers() -> dict:
    torch.manual_seed(0)
    return dict(
        text_tower=MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH)),
        image_tower=MODELS.build(dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)),
    )


IMAGES = torch.zeros(1, 3, 32, 32)


def released(tokens: torch.Tensor) -> dict:
    return dict(vpt_embeddings=tokens[:1], vpt_embeddings_deep=tokens[1:])


def test_the_release_of_each_prompt_loads(towers, tmp_path):
    tokens, ctx = torch.randn(4, 3, 32), torch.randn(2, 24)
    path = release(tmp_path / 'mvpt.pth', {f'prompt_learner.{k}': v for k, v in released(tokens).items()})
    visual = build(towers, 'VPTPrompt', num_tokens=3, place='front', through_ln_pre=False, pretrained=path)
    assert torch.equal(torch.stack([visual.first, *visual.deep]), tokens)

    path = release(tmp_path / 'shallow.pth', {'prompt_learner.vpt_embeddings': tokens[:1]})
    assert torch.equal(build(towers, 'VPTPrompt', num_tokens=3, depth=1, pretrained=path).first, tokens[0])

    path = release(tmp_path / 'mcoop.pth', {'prompt_learner.ctx': ctx})
    assert torch.equal(build(towers, 'CoOpPrompt', num_contexts=2, position='middle', pretrained=path).ctx, ctx)

    sizes = dict(num_contexts=2, num_tokens=3)
    plain = dict(ctx=ctx, **released(tokens))
    path = release(tmp_path / 'identity.pth', {f'prompt_learner.{k}': v for k, v in plain.items()})
    prompt = build(towers, 'MVLPTPrompt', project_dim=None, pretrained=path, **sizes)
    assert torch.equal(prompt.context(), ctx) and torch.equal(prompt.prompt(IMAGES)[1].deep[2], tokens[3])
    with pytest.raises(CheckpointError, match=r'missing: block[\s\S]*has 2 vectors .* 3 tokens of 32 channels'):
        build(towers, 'MVLPTPrompt', project_dim=8, pretrained=path, **sizes)


@pytest.mark.parametrize('project_dim', [8, 24, 32])
def test_maps_exist_where_widths_differ(towers, tmp_path, project_dim):
    prompt = build(towers, 'MVLPTPrompt', num_contexts=2, num_tokens=3, project_dim=project_dim)
    names = {name.partition('.')[0] for name in prompt.state_dict()}
    maps = {'text_in', 'text_out'} if project_dim != 24 else set()
    maps |= {'image_in', 'image_out'} if project_dim != 32 else set()
    assert names == {'ctx', 'visual', 'block'} | maps
    assert prompt.context().shape == (2, 24) and prompt.prompt(IMAGES)[1].first.shape == (3, 32)


@pytest.mark.parametrize('class_specific', [False, True])
def test_each_vector_goes_through_the_block_alone(towers, class_specific):
    prompt = build(towers, 'MVLPTPrompt', project_dim=8, class_specific=class_specific, std=1.0)
    before, tokens = prompt.context(), torch.stack(prompt.prompt(IMAGES)[1].deep)
    assert before.shape == ((3, 4, 24) if class_specific else (4, 24))
    prompt.ctx.data[..., -1, :] += 1.0
    changed = (prompt.context() - before).abs().amax(-1) > 1e-5
    assert changed[..., -1].all() and not changed[..., :-1].any()
    assert torch.equal(torch.stack(prompt.prompt(IMAGES)[1].deep), tokens)
    assert prompt(towers['text_tower']).shape == (3, 16)


def test_initial_tokens_fill_the_interval_of_the_official_code(towers):
    tokens = torch.cat([p.flatten() for p in build(towers, 'VPTPrompt', num_tokens=50, std=None).parameters()])
    bound = math.sqrt(6 / (3 * 8**2 + 32))
    assert tokens.abs().max() <= bound and tokens.abs().max() > 0.99 * bound
    assert tokens.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_mixed_precision_does_not_reach_the_block(towers):
    prompt = build(towers, 'MVLPTPrompt', project_dim=8)
    with torch.autocast('cpu', torch.bfloat16):
        context = prompt._each(torch.randn(2, 8, dtype=torch.bfloat16))
    assert context.dtype == torch.float32


@pytest.mark.parametrize('project_dim', [None, 8])
def test_it_trains_in_a_denseclip_vit(project_dim):
    train_in_a_denseclip_vit(dict(text_prompt=dict(type='vlm_dense.MVLPTPrompt', project_dim=project_dim)))


def test_what_cannot_be_is_named(towers):
    resnet = dict(towers, image_tower=MODELS.build(dict(type='vlm_dense.CLIPResNet', arch=RESNET, attnpool=True)))
    with pytest.raises(ConfigError, match='only a ViT takes'):
        build(resnet, 'MVLPTPrompt')
    with pytest.raises(ClassNamesError, match='MVLPTPrompt: .*The context takes 74 of them'):
        build(towers, 'MVLPTPrompt', num_contexts=74)
    with pytest.raises(ConfigError, match='project_dim must be at least 1, or None; found 0'):
        build(towers, 'MVLPTPrompt', project_dim=0)
