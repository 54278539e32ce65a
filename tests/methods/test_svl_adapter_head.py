"""SVL-Adapter: its two stages, the rules of mixing, and what it refuses."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from methods.test_adapters import build
from mmengine.dataset import pseudo_collate
from mmengine.logging import HistoryBuffer
from torch.utils.data import DataLoader

from vlm_dense.classification import ClsDataSample, ContrastivePretraining, RandomViews
from vlm_dense.classification.contrastive import build_encoder, nt_xent, triplet_loss
from vlm_dense.errors import CheckpointError, ConfigError, DataError

SMALL = dict(encoder='test_convnext', hidden_channels=8)


# --- the first stage --------------------------------------------------------------------------------------------------


def test_nt_xent_is_that_of_loops():
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    rows = [row / row.norm() for row in torch.cat([first, second])]
    total = 0.0
    for i in range(6):
        scores = torch.stack([rows[i] @ rows[j] / 0.2 for j in range(6) if j != i])
        total -= (rows[i] @ rows[(i + 3) % 6] / 0.2 - scores.logsumexp(0)) / 6
    torch.testing.assert_close(nt_xent(first, second, 0.2), total)


@pytest.mark.parametrize('kind', ['cosine', 'l2'])
def test_a_triplet_with_its_anchor_as_negative_counts_nothing(kind):
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    negatives = torch.tensor([0, 4, 2])
    alone = triplet_loss(first[1:2], second[1:2], torch.tensor([1]), 9.0, kind)  # its positive instead of row 4
    assert float(triplet_loss(first, second, negatives, 9.0, kind)) == pytest.approx(float(alone) / 3)


def test_a_runner_leaves_the_weights_of_an_encoder_as_they_are():
    model = ContrastivePretraining('test_vit', hidden_channels=8, out_channels=4)
    before = {name: value.clone() for name, value in model.enc.state_dict().items()}
    model.init_weights()  # of mmengine: calls every child's, and timm's draw
    assert all(torch.equal(value, before[name]) for name, value in model.enc.state_dict().items())


def test_an_encoder_learns_and_views_are_checked():
    torch.manual_seed(0)
    model = ContrastivePretraining(**SMALL, out_channels=4, triplet='cosine')
    views = torch.randn(4, 2, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(6):
        found = model(views, mode='loss')
        assert set(found) == {'loss_nt_xent', 'loss_triplet'}
        optimizer.zero_grad()
        found['loss_nt_xent'].backward()
        optimizer.step()
        losses.append(float(found['loss_nt_xent']))
    assert losses[-1] < losses[0]
    assert model(views[:, 0]).shape == (4, 64)
    for wrong in (views[:, :1], views[:, 0]):
        with pytest.raises(DataError, match='expected two views of each image'):
            model(wrong, mode='loss')
    with pytest.raises(DataError, match='a batch of one image'):
        model(views[:1], mode='loss')
    with pytest.raises(ConfigError, match="found 'euclid'"):
        ContrastivePretraining(**SMALL, triplet='euclid')
    with pytest.raises(ConfigError, match='test_convnext'):
        ContrastivePretraining(encoder='test_convnextt')


def test_views_are_of_one_size_and_differ():
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    crop = dict(type='RandomResizedCrop', size=16)
    jitter = dict(type='RandomApply', p=1.0, transforms=[dict(type='ColorJitter', brightness=0.4)])
    views = RandomViews([crop, jitter], num_views=3)(dict(img=image))['img']
    assert views.shape == (3, 16, 16, 3) and not np.array_equal(views[0], views[1])
    with pytest.raises(ConfigError, match='end with one size'):
        RandomViews([dict(type='RandomResize', min_size=8, max_size=30)], num_views=8)(dict(img=image))


# --- the second stage -------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('ssl') / 'epoch_1.pth'
    torch.manual_seed(1)
    beside = dict(args=Namespace(lr=0.03), message_hub=HistoryBuffer([1.0], [1]))  # of the official code, of mmengine
    torch.save(dict(state_dict=ContrastivePretraining(**SMALL).state_dict(), epoch=1, **beside), path)
    return str(path)


def model_with(weights: str, **options):
    return build(head=dict(type='vlm_dense.SVLAdapter', **SMALL, pretrained=weights, **options))


def images(labels: list[int] | None, count: int = 12) -> DataLoader:
    pixels = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(2)).mul(60).add(120)
    samples = [ClsDataSample() if labels is None else ClsDataSample().set_label(labels[i]) for i in range(count)]
    rows = [dict(inputs=x, data_samples=sample) for x, sample in zip(pixels, samples, strict=True)]
    return DataLoader(rows, 5, collate_fn=pseudo_collate)


def batch_of(model, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All images, and the two logits by hand."""
    pixels = torch.stack([row['inputs'] for row in loader.dataset])
    with torch.no_grad():
        own = model.head.mlp(model.head.enc(pixels))
        image = F.normalize(model.image_features(pixels).global_, dim=-1)
        clip = model.text_encoder.logit_scale.exp() * image @ F.normalize(model.text_side.class_embeddings(), dim=-1).T
    return pixels, own, clip


def test_training_sees_the_mlp_alone_and_a_test_the_mixture(weights):
    model = model_with(weights, alpha=0.3)
    pixels, own, clip = batch_of(model, images(None))
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), 0.3 * own + 0.7 * clip)
        torch.testing.assert_close(model.train()(pixels), own)
    assert not model.head.enc.training
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f'head.mlp.{layer}.{kind}' for layer in (0, 2) for kind in ('weight', 'bias')
    }


def test_confidence_reads_no_label(weights):
    model = model_with(weights, alpha='confidence')
    assert model.head.transductive and not model_with(weights, alpha='search').head.transductive
    pixels, own, clip = batch_of(model, images(None))
    with pytest.raises(ConfigError, match='SVLAdapter has not seen its data'):
        model(pixels)
    model.head.prepare(model, dict(unlabelled=images(None)))
    confidence = clip.softmax(1).max(1).values.mean()
    torch.testing.assert_close(model.head.alpha, 1 - confidence)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), (1 - confidence) * own + confidence * clip)
    raw = model_with(weights, alpha='confidence', raw_confidence=True)
    raw.head.prepare(raw, dict(unlabelled=images(None)))
    assert raw.head.alpha != model.head.alpha


def test_the_search_takes_the_first_best(weights):
    model = model_with(weights, alpha='search')
    model.head.mlp[2].weight.data *= 500
    pixels, own, clip = batch_of(model, images(None))
    labels = (0.62 * own + 0.38 * clip).argmax(1)
    right = [int(((i / 20) * own + (1 - i / 20) * clip).argmax(1).eq(labels).sum()) for i in range(21)]
    data = dict(search=images(labels.tolist()))
    model.head.prepare(model, data)
    assert float(model.head.alpha) == pytest.approx(0.2)
    model.head.finish(model, data)
    assert float(model.head.alpha) == pytest.approx(right.index(max(right)) / 20)
    assert float(model.head.alpha) > 0 and float(model.head.search_accuracy.max()) == pytest.approx(
        100 * max(right) / 12
    )


def test_a_search_without_validation_data_and_data_that_nobody_reads_are_refused(weights):
    model = model_with(weights, alpha='search')
    with pytest.raises(ConfigError, match="SVLAdapter reads the data 'search'"):
        model.head.prepare(model, {})
    with pytest.raises(ConfigError, match="alpha='search' the data \\['unlabelled'\\] are not read"):
        model.head.prepare(model, dict(unlabelled=images(None), search=images([0] * 12)))
    with pytest.raises(ConfigError, match="alpha=0.5 the data \\['search'\\] are not read"):
        fixed = model_with(weights, alpha=0.5)
        fixed.head.prepare(fixed, dict(search=images([0] * 12)))
    for wrong in (1.5, 'best'):
        with pytest.raises(ConfigError, match=f'found {wrong!r}'):
            model_with(weights, alpha=wrong)
    with pytest.raises(ConfigError, match="raw_confidence belongs to 'confidence'"):
        model_with(weights, alpha=0.5, raw_confidence=True)


def test_an_encoder_of_another_size_than_its_checkpoint_is_refused_with_both_shapes(weights, tmp_path):
    head = dict(type='vlm_dense.SVLAdapter', encoder='test_convnext2', pretrained=weights)
    with pytest.raises(CheckpointError, match=r'epoch_1.pth does not fit(.|\n)*expected \(32,.*found \(24,'):
        build(head=head)
    with pytest.raises(ConfigError, match='an encoder by name needs the weights'):
        build(head=dict(type='vlm_dense.SVLAdapter', encoder='test_convnext'))
    with pytest.raises(CheckpointError, match='absent.pth does not exist'):
        build(head=dict(type='vlm_dense.SVLAdapter', **SMALL, pretrained='absent.pth'))
    plain = tmp_path / 'plain.pth'
    encoder = build_encoder('test_convnext')
    torch.save({**encoder.state_dict(), 'fc.weight': torch.zeros(2, 64)}, plain)
    loaded = build(head=dict(type='vlm_dense.SVLAdapter', encoder='test_convnext', pretrained=str(plain))).head.enc
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
