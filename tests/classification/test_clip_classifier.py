"""The classifier: its modes, what is frozen, what is computed once, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_towers import resnet

from vlm_dense.classification import ClsDataSample
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.registry import MODELS, TRANSFORMS

NAMES = ['circle', 'tiger_shark', 'red star']
ARCH = resnet(text=dict(layers=1), image_size=32)
CONFIG = dict(
    type='vlm_dense.CLIPClassifier',
    class_names=NAMES,
    data_preprocessor=dict(type='mmengine.ImgDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True),
    backbone=dict(type='vlm_dense.CLIPResNet', arch=ARCH, attnpool=True),
    text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
    text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=3),
)


def build(**kwargs):
    torch.manual_seed(0)
    return MODELS.build(CONFIG | kwargs)


def batch(labels=(0, 2), **meta) -> dict:
    """What a data loader gives."""
    pack = TRANSFORMS.build(dict(type='vlm_dense.PackClsInputs'))
    stream = np.random.RandomState(0)
    items = [
        pack(dict(img=stream.randint(0, 255, (32, 32, 3)).astype(np.uint8), gt_label=label, img_path=f'{i}.png'))
        for i, label in enumerate(labels)
    ]
    return dict(inputs=[x['inputs'] for x in items], data_samples=[x['data_samples'] for x in items])


def test_predictions_are_the_greatest_of_the_scaled_cosines():
    model = build().eval()
    with torch.no_grad():
        samples = model.val_step(batch())
        images = model.data_preprocessor(batch())['inputs']
        f, t = model.backbone.encode(images, ('global',)).global_, model.text_prompt(model.text_encoder)
        wanted = model.text_encoder.logit_scale.exp() * F.normalize(f, dim=-1) @ F.normalize(t, dim=-1).T
        torch.testing.assert_close(model(images), wanted)
    torch.testing.assert_close(torch.stack([s.pred_scores for s in samples]), wanted)
    assert [int(s.pred_label) for s in samples] == wanted.argmax(1).tolist()
    assert [int(s.gt_label) for s in samples] == [0, 2]


def test_images_reach_the_tower_as_rgb_and_normalised():
    data = batch(labels=(0,))
    given = build().data_preprocessor(data)['inputs'][0]
    torch.testing.assert_close(given, (data['inputs'][0].flip(0).float() - 100) / 50)


@pytest.mark.parametrize('prompt', ['CoOpPrompt', 'CoCoOpPrompt', 'KgCoOpPrompt'])
def test_training_moves_the_prompt_and_nothing_else(prompt):
    options = dict(reduction=2) if prompt == 'CoCoOpPrompt' else {}
    model = build(text_prompt=dict(type=f'vlm_dense.{prompt}', **options)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    data = model.data_preprocessor(batch(), training=True)
    losses = model(**data, mode='loss')
    assert set(losses) == {'loss_ce'} | ({'prompt.loss_kg'} if prompt == 'KgCoOpPrompt' else set())
    model.parse_losses(losses)[0].backward()
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith('text_prompt.')}


def test_the_image_tower_can_be_trained():
    model = build(frozen_backbone=False).train()
    assert model.backbone.bn1.training
    model.parse_losses(model(**model.data_preprocessor(batch(), training=True), mode='loss'))[0].backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_classes_are_encoded_once_until_training_goes_on(monkeypatch):
    model = build().eval()
    calls = []
    forward = type(model.text_prompt).forward
    monkeypatch.setattr(type(model.text_prompt), 'forward', lambda *a, **k: calls.append(1) or forward(*a, **k))
    with torch.no_grad():
        first = model.val_step(batch())[0].pred_scores
        model.val_step(batch())
        assert len(calls) == 1
        model.train()
        model.text_prompt.ctx.normal_()
        model.eval()
        assert not torch.equal(model.val_step(batch())[0].pred_scores, first)
        model.load_state_dict(build().state_dict())
        assert torch.equal(model.val_step(batch())[0].pred_scores, first)


def test_labels_that_cannot_be_are_named_with_their_image():
    model = build().train()
    with pytest.raises(DataError, match='1.png has the label 3; expected 0 to 2 for 3 classes'):
        model(**model.data_preprocessor(batch(labels=(0, 3)), training=True), mode='loss')
    data = model.data_preprocessor(batch(), training=True)
    data['data_samples'][1] = ClsDataSample(metainfo=dict(img_path='bare.png'))
    with pytest.raises(DataError, match='bare.png has no gt_label'):
        model(**data, mode='loss')


def test_names_and_towers_that_cannot_work_are_refused():
    with pytest.raises(ClassNamesError, match='vlm-dense train'):
        build(class_names=None)
    with pytest.raises(ClassNamesError, match='empty list'):
        build(class_names=[])
    with pytest.raises(ConfigError, match='16 and 8 dimensions'):
        build(text_encoder=dict(type='vlm_dense.TextTower', arch=dict(ARCH, embed_dim=8)))
    with pytest.raises(ConfigError, match='found ResNet'):
        build(backbone=dict(type='mmseg.ResNet', depth=18))


def test_two_classes_of_one_name_are_allowed_and_said(monkeypatch):
    said = []
    monkeypatch.setattr('vlm_dense.classification.classifier.print_log', lambda message, **_: said.append(message))
    model = build(class_names=['missile', 'missile']).eval()
    assert "several classes are named 'missile'" in said[0]
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2)


def test_greyscale_images_and_images_without_label_are_packed():
    packed = TRANSFORMS.build(dict(type='vlm_dense.PackClsInputs'))(dict(img=np.zeros((4, 6), np.uint8)))
    assert packed['inputs'].shape == (1, 4, 6)
    assert 'gt_label' not in packed['data_samples']
