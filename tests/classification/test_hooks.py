"""Hooks of classification: zero-shot figures are those of plain CLIP whatever the method's parts, costs are counted."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModule
from tiny_towers import resnet

from vlm_dense.classification import ClsDataSample
from vlm_dense.contract.roles import Head, ImagePrompt
from vlm_dense.registry import HOOKS, METRICS, MODELS

ARCH = resnet(text=dict(layers=1), image_size=32)
PLAIN = dict(
    type='vlm_dense.CLIPClassifier',
    class_names=['a_cat', 'dog', 'bird'],
    data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3),
    backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True),
    text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='ucf101', separators='_'),
)


@MODELS.register_module(force=True)
class BlackImages(ImagePrompt, BaseModule):
    """Nothing is seen any more."""

    def prompt(self, images, text=None, plain=None):
        return torch.zeros_like(images), None


@MODELS.register_module(force=True)
class LastClass(Head, BaseModule):
    """Every image is of the last class."""

    def logits(self, features, text, logit_scale):
        return torch.arange(float(len(text))).expand(len(features.global_), -1)


def build(**kwargs):
    torch.manual_seed(0)
    return MODELS.build(PLAIN | kwargs)


def runner_of(model, work_dir=None):
    torch.manual_seed(1)
    images = [torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8) for _ in range(12)]
    batch = dict(inputs=images, data_samples=[ClsDataSample().set_label(i % 3) for i in range(12)])
    metric = METRICS.build(dict(type='vlm_dense.Accuracy'))

    scores = []

    class Evaluator:
        evaluate = staticmethod(metric.evaluate)

        @staticmethod
        def process(data_samples, data_batch):
            scores.append(torch.stack([sample.pred_scores for sample in data_samples]))
            metric.process(None, [sample.to_dict() for sample in data_samples])

    loader = type('Loader', (list,), dict(dataset=range(12)))([batch])
    said = []
    return SimpleNamespace(
        model=model,
        test_loop=SimpleNamespace(dataloader=loader, evaluator=Evaluator),
        logger=SimpleNamespace(info=said.append, warning=said.append),
        said=said,
        scores=scores,
        work_dir=work_dir,
        rank=0,
    )


def test_zero_shot_before_training_is_that_of_plain_clip():
    method = build(image_prompt=dict(type='vlm_dense.BlackImages'), head=dict(type='vlm_dense.LastClass'))
    parts = method.text_prompt, method.image_prompt, method.head
    hook = HOOKS.build(dict(type='vlm_dense.ZeroShotComparisonHook', templates='ucf101'))
    runner = runner_of(method)
    hook.before_train(runner)
    plain = runner_of(build())
    with torch.no_grad():
        wanted = plain.model.eval().test_step(plain.test_loop.dataloader[0])
    assert torch.equal(runner.scores[0], torch.stack([sample.pred_scores for sample in wanted]))
    assert (method.text_prompt, method.image_prompt, method.head) == parts
    assert "zero-shot with 'a photo of a person doing {}.': top1" in runner.said[0]
    hook.after_train(runner)
    assert torch.equal(runner.scores[1], torch.arange(3.0).expand(12, 3))
    assert 'After training: top1 33.33' in runner.said[1]
    assert 'Nothing was learned' in runner.said[2]  # 33.33 before as well
    hook.zero_shot = dict.fromkeys(hook.zero_shot, 20.0)
    hook.after_train(runner)
    assert len(runner.said) == 4 and '(zero-shot: top1 20.00' in runner.said[3]


def test_parts_come_back_after_an_error():
    method = build(head=dict(type='vlm_dense.LastClass'))
    runner = runner_of(method)
    runner.test_loop.evaluator.process = None
    head = method.head
    with pytest.raises(TypeError):
        HOOKS.build(dict(type='vlm_dense.ZeroShotComparisonHook')).before_train(runner)
    assert method.head is head


def test_costs_are_counted_and_kept_when_nothing_is_left_to_train(tmp_path):
    model = build(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=3))
    runner = runner_of(model, tmp_path)
    hook = HOOKS.build(dict(type='vlm_dense.CostHook'))
    for _ in range(3):
        hook.before_train_iter(runner, 0)
        hook.after_train_iter(runner, 0)
    hook.after_train(runner)
    cost = json.loads((tmp_path / 'cost.json').read_text())
    assert cost['trained_parameters'] == 3 * 32 and cost['seconds_per_step'] > 0
    assert cost['peak_memory_mb'] > 50 and cost['transductive'] is False
    model.text_prompt.transductive = True
    HOOKS.build(dict(type='vlm_dense.CostHook')).after_train(runner)  # resumed behind the last iteration
    assert json.loads((tmp_path / 'cost.json').read_text()) == cost
    runner.work_dir = tmp_path / 'other'
    runner.work_dir.mkdir()
    HOOKS.build(dict(type='vlm_dense.CostHook')).after_test(runner)
    found = json.loads((tmp_path / 'other/cost.json').read_text())
    assert found['transductive'] is True and found['seconds_per_step'] is None
