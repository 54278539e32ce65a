"""Patch values that learn from captions of mosaics."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from tiny_clip.patch_captions import BlockwiseDataset, CaptionedMosaic, PatchCaptions

from vlm_dense.datasets import scenes
from vlm_dense.registry import DATASETS

PAIRS = len(scenes.PAIRS)


def photos(count: int, size: int, seed: int) -> dict:
    return dict(
        type='vlm_dense.ShapesDataset',
        label='shape_colour',
        num_scenes=count,
        num_objects=(0, 1),
        size=size,
        seed=seed,
        pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackCaptioned')],
    )


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return PatchCaptions('tiny-vit', 'bundled', bfloat16=False).train()


def test_a_mosaic_holds_four_images_and_what_each_shows():
    single = DATASETS.build(photos(9, 16, seed=3))
    mosaics = CaptionedMosaic(photos(9, 16, seed=3))
    assert len(mosaics) == 2
    item = mosaics[1]
    assert item['inputs'].shape == (3, 32, 32)
    for part, (y, x) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
        assert torch.equal(item['inputs'][:, y : y + 16, x : x + 16], single[4 + part]['inputs'])
        assert torch.equal(item['data_samples'][part], single[4 + part]['data_samples'])


def test_blocks_come_in_turn():
    parts = [photos(6, size, seed) for size, seed in ((16, 1), (24, 2))]
    mixed, first, second = BlockwiseDataset(parts, block=3), *map(DATASETS.build, parts)
    assert len(mixed) == 12
    wanted = [first[i] for i in (0, 1, 2)] + [second[i] for i in (0, 1, 2)] + [first[i] for i in (3, 4, 5)]
    for i, item in enumerate(wanted):
        assert torch.equal(mixed[i]['inputs'], item['inputs'])


def test_only_the_image_tower_is_trained(model):
    sum(model.loss(torch.randn(2, 3, 64, 64), torch.eye(PAIRS)[[0, 9]]).values()).backward()
    for name, parameter in model.clip.named_parameters():
        assert (parameter.grad is not None) == name.startswith('visual.'), name


def test_a_mosaic_is_four_images_to_the_patches_and_one_to_the_class_token(model):
    torch.manual_seed(1)
    images, present = torch.randn(2, 3, 96, 96), torch.zeros(2, 4, PAIRS)
    present[0, 1, 5] = present[0, 2, 9] = present[1, 3, 40] = 1
    losses = model.loss(images, present)
    features = model.tower[0].encode(images, ('global', 'value'))
    value = F.normalize(features.value, dim=1)
    parts = [value[b, :, y : y + 6, x : x + 6].flatten(1).T for b in (0, 1) for y in (0, 6) for x in (0, 6)]
    wanted = model._patch_losses(torch.stack(parts), present.flatten(0, 1))
    whole = model.caption_losses(F.normalize(features.global_, dim=-1), present.amax(1))
    for name, loss in (wanted | {k: model.several_weight * v for k, v in whole.items()}).items():
        torch.testing.assert_close(losses[name], loss)


def test_patch_losses_are_those_of_the_formula(model):
    torch.manual_seed(2)
    value = F.normalize(torch.randn(3, 12, 128), dim=-1)
    present = torch.zeros(3, PAIRS)
    present[0, 5] = present[0, 60] = present[1, 9] = 1
    found = model._patch_losses(value, present)
    area = 1  # 12 patches / 6, shared by the two objects of the first image
    for name, classifier in model.patch_classifiers.items():
        names_of = (lambda pair: pair) if name == 'pair' else (lambda pair: pair // len(scenes.COLOURS))
        last, one_of, somewhere, background = len(classifier) - 1, [], [], []
        for b in range(3):
            p = [(model.scale * classifier @ v).softmax(0) for v in value[b]]
            named = sorted({names_of(int(i)) for i in present[b].nonzero()})
            one_of += [-math.log(q[last] + sum(q[k] for k in named)) for q in p]
            somewhere += [-math.log(sum(sorted((float(q[k]) for q in p), reverse=True)[:area]) / area) for k in named]
            background += [-math.log(q) for q in sorted((float(q[last]) for q in p), reverse=True)[:3]]
        wanted = sum(sum(part) / len(part) for part in (one_of, somewhere, background))
        assert float(found[f'loss_patch_{name}']) == pytest.approx(wanted, rel=1e-4)


def test_the_config_draws_three_kinds_of_images_in_turn():
    cfg = Config.fromfile('projects/tiny_clip/configs/pretrain_tiny-vit_patches.py')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == cfg.train_cfg.max_iters * cfg.batch_size
    shapes = [dataset[i * cfg.batch_size] for i in range(4)]
    assert [tuple(s['inputs'].shape[1:]) for s in shapes] == [(64, 64), (96, 96), (96, 96), (64, 64)]
    assert [tuple(s['data_samples'].shape) for s in shapes] == [(64,), (4, 64), (64,), (64,)]
