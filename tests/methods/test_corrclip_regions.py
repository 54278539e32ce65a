"""CorrCLIP: scopes and merges by brute force, windows without region 0, batches, votes, files, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from PIL import Image
from test_dense_methods import ARCH, proxy
from torch.nn import functional as F

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.dense.corrclip import PADDING, ColourRegions, CorrCLIPAttention, RegionFiles, vote
from vlm_dense.registry import MODELS

NAMES = ['circle', 'square', 'star']


def part(**options):
    torch.manual_seed(0)
    return CorrCLIPAttention(dict(proxy(), feature='query_key'), middle=1, **options)


def model(**options):
    torch.manual_seed(0)
    attention = dict(type='vlm_dense.CorrCLIPAttention', proxy=dict(proxy(), feature='query_key'), middle=1)
    cfg = dict(
        type='vlm_dense.CorrCLIP',
        class_names=NAMES,
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, dense_attention=attention),
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        regions=dict(type='vlm_dense.ColourRegions'),
        test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16), window_multiple=8),
    )
    found = MODELS.build(cfg | options).eval()
    found.decode_head.embed_classes = lambda *_: torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    return found


def drawn(height, width, seed=0):
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def test_weights_are_those_of_the_definition_whatever_the_smallest_label_is():
    features = F.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(3)), dim=1)
    for labels in ([4, 4, 9, 9, 9, 4, 12], [0, 3, 3, 0, 1, 1, 1], [2] * 7):
        found = part().weights(features, torch.tensor(labels))
        similarity = [[float(a @ b) for b in features] for a in features]
        mean = sum(map(sum, similarity)) / 49
        for a in range(7):
            free_a = labels[a] == min(labels)
            scores = []
            for b in range(7):
                free = free_a or labels[b] == min(labels)
                allowed = similarity[a][b] > mean if free else labels[a] == labels[b]
                scores.append(math.exp(4 * similarity[a][b]) if allowed else 0.0)
            for b in range(7):
                assert abs(scores[b] / sum(scores) - float(found[a, b])) < 1e-5


def test_like_regions_become_one_and_the_smallest_label_stays():
    base = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.99, 0.1, 0], [0, 0, 1], [0.9, 0.3, 0]]), dim=1)
    labels = torch.tensor([5, 7, 8, 9, 11])  # 8 and 11 are alike, 5 is the smallest and would be as well
    merged = part().merged(base, labels)
    assert merged.tolist() == [5, PADDING, PADDING + 1, PADDING + 2, PADDING + 1]
    assert part().merged(base, torch.tensor([3, 3, 3, 8, 8])).tolist() == [3, 3, 3, 8, 8]


def test_regions_are_linked_through_others():
    angles = torch.tensor([0.0, 0.5, 1.0, 1.5]) * 1.2  # neighbours are near, the ends are not
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    distances, cluster = part().clusters(torch.cat([features[:1], features]), torch.tensor([0, 1, 2, 3, 4]))
    assert distances[0, 3] > 0.2 and distances[0, 1] < 0.2 and cluster.tolist() == [0, 0, 0, 0]


@torch.no_grad()
def test_images_with_other_numbers_of_regions_do_not_see_each_other():
    own = model()
    images = torch.stack([drawn(40, 48, seed) for seed in range(3)])
    maps = [torch.zeros(40, 48), torch.arange(40)[:, None].expand(40, 48) // 9, torch.arange(48).expand(40, 48) // 5]
    by_path = {str(i): m.long() for i, m in enumerate(maps)}
    own.regions = lambda image, meta: by_path[meta['img_path']]

    def predict(indices):
        samples = [SegDataSample(metainfo=dict(img_path=str(i), ori_shape=(40, 48))) for i in indices]
        return [s.seg_logits.data for s in own.predict(images[indices], samples)]

    together = predict([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(predict([i])[0], together[i], rtol=1e-4, atol=1e-5)
    own.regions = lambda image, meta: by_path['2']
    assert (predict([1])[0] - together[1]).abs().max() > 1e-3  # regions matter


@torch.no_grad()
def test_what_pads_a_window_is_a_region_of_its_own():
    own, seen = model(test_cfg=dict(mode='slide', crop_size=(30, 30), stride=(30, 30), window_multiple=8)), []
    own.regions = lambda image, meta: torch.full((30, 30), 7)
    own.backbone.dense_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0].regions))
    own.predict(drawn(30, 30)[None], [SegDataSample(metainfo=dict(ori_shape=(30, 30)))])
    expected = torch.full((1, 32, 32), PADDING)
    expected[:, 1:31, 1:31] = 0
    assert torch.equal(seen[0], expected)


def test_every_region_but_the_smallest_votes():
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels, regions = generator.integers(0, 4, (6, 7)), generator.integers(3, 6, (6, 7))
        expected = labels.copy()
        for region in np.unique(regions)[1:]:
            counts = np.bincount(labels[regions == region])
            expected[regions == region] = counts.argmax()
        ranks = torch.as_tensor(regions).unique(return_inverse=True)[1]
        assert torch.equal(vote(torch.as_tensor(labels)[None], ranks)[0], torch.as_tensor(expected))


def test_files(tmp_path):
    wanted = np.arange(12).reshape(3, 4)
    np.savez(tmp_path / 'a.npz', instance_mask=wanted)
    Image.fromarray(wanted.astype(np.uint8)).save(tmp_path / 'b.png')
    (tmp_path / 'c.npz').write_text('none')
    assert np.array_equal(RegionFiles(tmp_path)(None, dict(img_path='x/a.jpg')), wanted)
    assert np.array_equal(RegionFiles(tmp_path, '.png')(None, dict(img_path='x/b.jpg')), wanted)
    for meta, text in (
        (dict(img_path='d.jpg'), 'no regions of d.jpg'),
        ({}, 'without a file'),
        (dict(img_path='c.jpg'), 'cannot'),
    ):
        with pytest.raises(DataError, match=text):
            RegionFiles(tmp_path)(None, meta)


def test_regions_of_one_colour():
    image = torch.zeros(3, 20, 30)
    image[0, :, 10:20] = 1
    image[:, 5, 5] = 0.5  # smaller than the least
    found = ColourRegions()(image, {})
    assert found[5, 5] == 0 and len({found[0, 0], found[0, 15], found[0, 25], 0}) == 4


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)), 'does not look at regions'),
        (dict(postprocess=['vlm_dense.PAMR']), 'not supported'),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        model(**options)


def test_too_few_blocks_and_wrong_regions_are_told():
    own, image = model(), drawn(32, 32)[None]
    own.backbone.dense_attention.middle = 3
    with pytest.raises(ConfigError, match='at most 2'):
        own.predict(image)
    own = model()
    own.regions = lambda image, meta: torch.zeros(8, 8, dtype=torch.long)
    with pytest.raises(DataError, match='32 x 32 px'):
        own.predict(image)
    with pytest.raises(DataError, match='flipped'):
        own.predict(image, [SegDataSample(metainfo=dict(flip=True))])
    with pytest.raises(ConfigError, match='augmentation'):
        own.strip_maps(image, [SegDataSample()])
    with pytest.raises(ConfigError, match='not trained'):
        own.loss(image, [SegDataSample()])
    with pytest.raises(ConfigError, match='encode'):
        own.backbone.encode(image, ('value',))
