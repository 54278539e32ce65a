"""LPOSS: batches, odd images, bad options; its graphs and its solver against dense algebra."""

from __future__ import annotations

import pytest
import torch
from margins import MARGIN, margin
from mmseg.structures import SegDataSample

from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.lposs import PixelGraph, scaled_lab
from vlm_dense.registry import MODELS

CLIP = dict(arch='tiny-vit', pretrained='bundled')


def lposs(**options):
    proxy = dict(
        type='vlm_dense.ProxyViT',
        model='vit_tiny_patch16_224',
        pretrained=False,
        feature='value',
        img_size=32,
        patch_size=16,
        embed_dim=32,
        depth=1,
        num_heads=2,
    )
    torch.manual_seed(0)
    cfg = dict(
        type='vlm_dense.LPOSS',
        backbone=dict(type='vlm_dense.CLIPViT', head=True, pos_mode='bicubic', **CLIP),
        text_encoder=dict(type='vlm_dense.TextTower', **CLIP),
        class_names=[['background', 'texture'], 'circle', 'star'],
        proxy=proxy,
        k=10,
        pixels=dict(tau=0.5, size=3),
        test_cfg=dict(mode='slide', crop_size=(40, 40), stride=(20, 20)),
    )
    return MODELS.build(cfg | options).eval()


def images(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(2))


def predict(model, inputs, sizes):
    metas = [dict(img_shape=size, ori_shape=(size[0] + 9, size[1] - 5)) for size in sizes]
    return model.predict(inputs, [SegDataSample(metainfo=meta) for meta in metas])


@torch.no_grad()
def test_a_batch_of_several_sizes_equals_single_runs():
    model, sizes = lposs(), [(50, 70), (30, 64), (64, 37)]
    inputs = torch.zeros(3, 3, 64, 70)
    for i, (h, w) in enumerate(sizes):
        inputs[i, :, :h, :w] = images(3, h, w)
    for i, found in enumerate(predict(model, inputs, sizes)):
        h, w = sizes[i]
        [alone] = predict(model, inputs[i : i + 1, :, :h, :w], [sizes[i]])
        assert alone.seg_logits.data.shape == (3, h + 9, w - 5)
        torch.testing.assert_close(found.seg_logits.data, alone.seg_logits.data, rtol=1e-4, atol=1e-5)
        assert margin(alone.seg_logits.data) > MARGIN
        assert torch.equal(found.pred_sem_seg.data, alone.pred_sem_seg.data)


@pytest.mark.parametrize('size', [(1, 40), (40, 8), (8, 8)])
@torch.no_grad()
def test_images_of_one_row_or_one_patch(size):
    [found] = predict(lposs(test_cfg=dict(mode='whole')), images(1, 3, *size), [size])
    assert found.seg_logits.data.isfinite().all()


@torch.no_grad()
def test_the_solver_equals_dense_algebra_given_enough_steps():
    model = lposs(steps=60, k=1000)
    features = torch.nn.functional.normalize(images(12, 6), dim=1)
    places = model.places([(0, 32, 0, 32), (0, 32, 16, 80)], [(2, 2), (2, 4)], features.device)
    graph = model.graph(features, places).to_dense()
    alike = (features @ features.T).clamp_min(0) ** 3
    weights = 2 * alike * torch.exp(-0.01 * torch.cdist(places, places))
    weights.fill_diagonal_(0)
    root = weights.sum(1).rsqrt()
    torch.testing.assert_close(graph, weights * root * root[:, None], rtol=1e-4, atol=1e-6)
    y = images(12, 5)
    wanted = torch.linalg.solve(torch.eye(12) - 0.95 * graph, y)
    torch.testing.assert_close(model.solve(lambda x: graph @ x, y), wanted, rtol=1e-3, atol=1e-4)


def test_the_graph_of_pixels_equals_its_definition():
    colours = torch.rand(3, 4, 5)
    lab = scaled_lab(colours).flatten(1).T
    y, x = (t.flatten() for t in torch.meshgrid(torch.arange(4), torch.arange(5), indexing='ij'))
    near = ((y[:, None] - y).abs() <= 2) & ((x[:, None] - x).abs() <= 2) & ~torch.eye(20, dtype=torch.bool)
    weights = torch.exp(-torch.cdist(lab, lab) / 0.3) * near
    root = weights.sum(1).rsqrt()
    found = PixelGraph(colours, tau=0.3, size=5)(torch.eye(20).view(20, 4, 5)).flatten(1)
    torch.testing.assert_close(found, weights * root * root[:, None], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(alpha=1.0), 'alpha'),
        (dict(k=0), 'positive'),
        (dict(pamr=dict(iterations=1)), 'no effect'),
        (dict(decision=dict()), 'no effect'),
        (dict(postprocess=[dict(type='vlm_dense.PAMR')]), 'no effect'),
        (dict(decode_head=dict(pd_thresh=0.5)), 'no effect'),
        (dict(decode_head=dict(refinements=[dict(type='vlm_dense.ThresholdBackground', thresh=0.5)])), 'no effect'),
        (dict(test_cfg=dict(mode='slide', crop_size=(40, 40), stride=(20, 20), window_multiple=8)), 'window_multiple'),
        (dict(proxy=dict(type='vlm_dense.CLIPResNet', arch='tiny-rn', pretrained='bundled')), 'patch_size'),
    ],
)
def test_options_that_cannot_work_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        lposs(**options)
