"""DualCoOp beyond the official figures: the bounds of its loss, unseen classes, subsets of classes, towers that fit."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_towers import resnet

from vlm_dense.classification import ClsDataSample
from vlm_dense.contract.roles import Step
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.registry import MODELS

ARCH = resnet()
NAMES = ['circle', 'tiger_shark', 'red star']


def build(names=NAMES, arch=ARCH, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            class_names=names,
            backbone=dict(type='vlm_dense.CLIPResNet', arch=arch, attnpool=True, attnpool_positions='bicubic'),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=dict(type='vlm_dense.DualCoOpPrompt', num_contexts=2, **kwargs),
            loss=dict(type='vlm_dense.AsymmetricLoss'),
        )
    ).eval()


def samples(*labels) -> list:
    return [ClsDataSample(gt_labels=torch.tensor(row)) for row in labels]


def step(logits, labels, classes=None) -> Step:
    logits = torch.tensor(logits, requires_grad=True)
    return Step(None, None, None, logits, None, samples(*labels), tuple('abc'), classes)


def test_the_loss_is_bounded_and_its_factor_has_no_gradient():
    loss = MODELS.build(dict(type='vlm_dense.AsymmetricLoss', weight=1.0, gamma_pos=1.0, gamma_neg=2.0))
    far = step([[-40.0, -40.0, 40.0]], [[1, 0, 0]])
    found = loss(far)['loss_asymmetric']
    # p = 0 of what is shown: log eps; p = 0 of what is not: min(1.05, 1) costs nothing; p = 1 of what is not: q = 0.05
    torch.testing.assert_close(found, torch.tensor(-math.log(1e-6) - 0.95**2 * math.log(0.05)))
    near = step([[0.3, -0.4, 0.0]], [[1, 0, -1]])
    loss(near)['loss_asymmetric'].backward()
    p, n = (1 / (1 + math.exp(-x)) for x in (0.3, -0.4))
    wanted = [-(1 - p) * (1 - p), (1 - (1.05 - n)) ** 2 * n * (1 - n) / (1.05 - n), 0.0]
    torch.testing.assert_close(near.logits.grad, torch.tensor([wanted]))


def test_a_step_may_train_with_some_of_the_classes():
    model = build().train()
    model.loss_function = MODELS.build(dict(type='vlm_dense.AsymmetricLoss', num_classes=2))
    seen = []
    forward = model.text_prompt.forward
    model.text_prompt.forward = lambda *args, **kwargs: seen.append(kwargs['classes']) or forward(*args, **kwargs)
    images = torch.randn(2, 3, 64, 64)
    for seed in range(20):
        torch.manual_seed(seed)
        losses = model(images, samples([1, 0, 1], [0, 1, -1]), mode='loss')
        assert losses['loss_asymmetric'] > 0
    assert {tuple(sorted(c.tolist())) for c in seen} == {(0, 1), (0, 2), (1, 2)}


def test_shared_prompts_fit_other_classes_and_those_of_classes_do_not():
    shared, other = build(class_specific=False), build(['dog', 'cat'], class_specific=False)
    other.text_prompt.load_state_dict(shared.text_prompt.state_dict())
    assert other(torch.randn(2, 3, 64, 64)).shape == (2, 2)
    with pytest.raises(RuntimeError, match=r'\[3, 2, 32\].*\[2, 2, 32\]'):
        build(['dog', 'cat']).text_prompt.load_state_dict(build().text_prompt.state_dict())


def test_a_release_for_other_classes_is_refused_with_both_shapes(tmp_path):
    released = {f'prompt_learner.ctx_{s}': torch.randn(5, 2, 32) for s in ('pos', 'neg')}
    released |= {'prompt_learner.token_prefix_pos': torch.zeros(5, 1, 32), 'image_encoder.conv1.weight': torch.zeros(1)}
    torch.save(dict(state_dict=released, epoch=3), tmp_path / 'model_best.pth.tar')
    path = str(tmp_path / 'model_best.pth.tar')
    prompt = build(list('vwxyz'), pretrained=path).text_prompt
    assert torch.equal(prompt.positive.ctx, released['prompt_learner.ctx_pos'])
    with pytest.raises(CheckpointError, match=r'(?s)expected \(3, 2, 32\), found \(5, 2, 32\).*its 3 classes'):
        build(pretrained=path)


def test_labels_that_cannot_be_are_refused():
    model = build()
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(DataError, match='has 2 gt_labels, expected one for each of 3 classes'):
        model(images, samples([1, 0]), mode='loss')
    with pytest.raises(DataError, match='has no gt_labels'):
        model(images, [ClsDataSample().set_label(1)], mode='loss')


@pytest.mark.parametrize('options', [dict(num_contexts=[1, 2, 3]), dict(words='a photo of a')])
def test_other_than_two_prompts_are_refused(options):
    tower = SimpleNamespace()
    with pytest.raises(ConfigError, match='positive and of the negative prompt'):
        MODELS.build(dict(type='vlm_dense.DualCoOpPrompt', class_names=NAMES, text_tower=tower, **options))
