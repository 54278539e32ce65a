"""RePrompt: what is retrieved, what is trained, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from methods.test_adapters import ARCH, NAMES, build
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from vlm_dense.classification import ClsDataSample
from vlm_dense.errors import ConfigError, DataError

PROMPT = dict(type='vlm_dense.RePrompt', shots=3, num_tokens=2, depth=2, num_neighbours=2, tau=0.1)
LABELS = [0, 0, 0, 1, 1, 2, 2, 2]


def support(labels=LABELS, named: bool = True) -> DataLoader:
    rows = []
    for number, label in enumerate(labels):
        sample = ClsDataSample(metainfo=dict(img_path=f'{number}.png') if named else {}).set_label(label)
        pixels = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(number))
        rows.append(dict(inputs=pixels, data_samples=sample))
    return DataLoader(rows, 3, collate_fn=pseudo_collate)


def prepared(**options):
    model = build(image_prompt=dict(PROMPT, **options))
    model.image_prompt.prepare(model, dict(support=support()))
    return model


def batch(rows: list[int]) -> tuple[torch.Tensor, list]:
    data = support().dataset
    return torch.stack([data[row]['inputs'] for row in rows]), [data[row]['data_samples'] for row in rows]


def test_an_image_does_not_find_itself_in_training_and_rows_without_image_are_never_found():
    model = prepared()
    part, (images, samples) = model.image_prompt, batch(list(range(8)))
    with torch.no_grad():
        plain = model.backbone.encode(images, ('global',)).global_
        rows, feature, knn = part.retrieve(plain)
        assert rows[:, 0].tolist() == list(range(8)) and rows.max() < 8  # 9 rows, one without image
        near = F.normalize(plain, dim=-1) @ F.normalize(plain, dim=-1).T
        top, wanted = near.topk(2)
        assert torch.equal(rows, wanted)
        weights = (top / 0.1).softmax(-1)
        torch.testing.assert_close(feature, torch.einsum('bk,bkd->bd', weights, F.normalize(plain, dim=-1)[wanted]))
        torch.testing.assert_close(knn.sum(1), torch.ones(8))
        model.train()(images, samples, mode='loss')
        near.fill_diagonal_(-1)
        top, wanted = near.topk(2)
        expected = torch.zeros(8, 3)
        for row in range(8):
            for weight, other in zip((top[row] / 0.1).softmax(-1), wanted[row], strict=True):
                expected[row, LABELS[other]] += weight
        torch.testing.assert_close(part._knn, expected)
        model.eval()(images)
        torch.testing.assert_close(part._knn, knn)  # a test image is looked for everywhere


def test_the_loss_weighs_images_with_foreign_neighbours_more():
    model = prepared(gamma=0.7, least=0.01)
    images, samples = batch([0, 3, 5])
    losses = model.train()(images, samples, mode='loss')
    part = model.image_prompt
    with torch.no_grad():
        part.training_batch(samples)
        cross = F.cross_entropy(model(images), torch.tensor([0, 1, 2]), reduction='none')
    right = part._knn[torch.arange(3), torch.tensor([0, 1, 2])].clamp(min=0.01)
    torch.testing.assert_close(losses['loss_ce'], ((1 - 0.7 * right.log()) * cross).mean())
    losses['loss_ce'].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f'image_prompt.{name}' for name in ('prompts', 'proj.weight', 'proj.bias', 'keys')}
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)


def test_the_mixture_is_one_of_probabilities():
    model = prepared(mix=0.4)
    images, _ = batch([1, 4])
    with torch.no_grad():
        mixed = model(images).exp()
        model.image_prompt.mix = 0.0
        plain = model(images).softmax(1)
        torch.testing.assert_close(mixed, 0.4 * model.image_prompt._knn + 0.6 * plain)


def test_the_database_is_in_the_checkpoint():
    model, other = prepared(), build(image_prompt=PROMPT)
    images, _ = batch([2, 6])
    with pytest.raises(ConfigError, match='RePrompt has not seen its data'):
        other(images)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(images), model(images))


def test_alpha_and_beta_are_searched_after_training_if_there_are_data():
    model = prepared(search_step=(4, 4))
    model.image_prompt.finish(model, {})
    assert (float(model.image_prompt.alpha), float(model.image_prompt.beta)) == (1.0, 5.5)
    model.image_prompt.finish(model, dict(search=support()))
    assert model.image_prompt.search_accuracy.shape == (4, 4)


def test_what_cannot_be_is_refused():
    model = build(image_prompt=PROMPT)
    with pytest.raises(DataError, match="tells images apart by img_path, and a sample has none. Keep 'img_path'"):
        model.image_prompt.prepare(model, dict(support=support(named=False)))
    with pytest.raises(DataError, match='no image of 1 of 3 classes: red star'):
        model.image_prompt.prepare(model, dict(support=support([0, 0, 1])))
    with pytest.raises(DataError, match='9 in all, and retrieves 2 others of each image; its support set has 10'):
        model.image_prompt.prepare(model, dict(support=support([0, 1, 2] * 3 + [0])))
    with pytest.raises(DataError, match='its support set has 2'):
        model.image_prompt.prepare(model, dict(support=support([0, 1])))
    with pytest.raises(ConfigError, match='below the 9 images of the database, found 9'):
        build(image_prompt=dict(PROMPT, num_neighbours=9))
    for wrong in (dict(depth=0), dict(mix=1.1), dict(tau=0), dict(num_tokens=0)):
        with pytest.raises(ConfigError, match='expected num_tokens and depth from 1'):
            build(image_prompt=dict(PROMPT, **wrong))
    with pytest.raises(ConfigError, match='RePrompt is its own loss; leave loss out'):
        build(image_prompt=PROMPT, loss=dict(type='vlm_dense.CrossEntropy'))
    resnet = dict(ARCH, vision_cfg=dict(image_size=32, layers=[1, 1, 1, 1], width=8, head_width=32))
    with pytest.raises(ConfigError, match='RePrompt puts tokens into the image tower'):
        build(
            NAMES,
            backbone=dict(type='vlm_dense.CLIPResNet', arch=resnet, attnpool=True),
            image_prompt=PROMPT,
        )


def test_it_trains_in_a_denseclip_with_a_frozen_tower():
    from methods.test_image_prompts import denseclip

    images = dict(type='vlm_dense.ClsDataPreprocessor')
    model = denseclip(image_prompt=dict(PROMPT, depth=4), data_preprocessor=images)
    part = model.image_prompt
    part.prepare(model, dict(support=support([number % len(part.class_names) for number in range(6)])))
    images = torch.randn(2, 3, 32, 32)
    features, _ = model.train().text_side.encode(model.backbone, images, ('dense', 'global'))
    features.dense.square().mean().backward()
    assert part.prompts.grad.abs().max() > 0 and part.proj.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.backbone.transformer.parameters())
