"""UPT beyond the official figures: who sees whom, dropout, releases, segmentors, what it refuses."""

from __future__ import annotations

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


@pytest.mark.parametrize('mixing', [False, True])
def test_vectors_see_each_other_if_they_are_told_to(towers, mixing):
    prompt = build(towers, 'UPTPrompt', mixing=mixing, std=1.0).eval()
    before = prompt.context()
    prompt.uni_ctx.data[0, -1] += 1.0  # of the image tower's half
    seen = (prompt.context() - before).abs().amax(1) > 1e-6
    assert seen.tolist() == [mixing] * 4


def test_each_evaluation_of_the_layer_in_training_has_its_own_dropout(towers):
    prompt = build(towers, 'UPTPrompt', std=1.0)
    assert torch.equal(prompt.eval().context(), prompt.context())
    assert not torch.equal(prompt.train().context(), prompt.context())


def test_the_official_checkpoint_loads(towers, tmp_path):
    weights = {k: torch.randn_like(v) for k, v in build(towers, 'UPTPrompt').state_dict().items()}
    names = {'self_attn.in_proj_weight', 'linear1.bias', 'norm2.weight', 'mlp.weight', 'uni_ctx'}
    assert names < set(weights) and weights['uni_ctx'].shape == (1, 8, 24) and 'ctx' not in weights
    path = release(tmp_path / 'model.pth.tar-50', {f'prompt_learner.{k}': v for k, v in weights.items()})
    prompt = build(towers, 'UPTPrompt', pretrained=path)
    assert all(torch.equal(v, weights[k]) for k, v in prompt.state_dict().items())
    with pytest.raises(CheckpointError, match=r'expected \(1, 4, 24\), found \(1, 8, 24\)[\s\S]*has 2 vectors'):
        build(towers, 'UPTPrompt', num_contexts=2, pretrained=path)


@pytest.mark.parametrize('mixing', [False, True])
def test_it_trains_in_a_denseclip_vit(mixing):
    train_in_a_denseclip_vit(dict(text_prompt=dict(type='vlm_dense.UPTPrompt', std=0.5, mixing=mixing)))


def test_what_cannot_be_is_named(towers):
    resnet = dict(towers, image_tower=MODELS.build(dict(type='vlm_dense.CLIPResNet', arch=RESNET, attnpool=True)))
    with pytest.raises(ConfigError, match='UPTPrompt puts tokens .*only a ViT takes'):
        build(resnet, 'UPTPrompt')
    with pytest.raises(ClassNamesError, match='UPTPrompt: .*The context takes 74 of them'):
        build(towers, 'UPTPrompt', num_contexts=74)
    with pytest.raises(ConfigError, match='at least 1; found 0'):
        build(towers, 'UPTPrompt', num_contexts=0)
