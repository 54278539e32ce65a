"""Trident: which windows cover what, thresholds by brute force, regions of the refinement, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from test_dense_methods import ARCH, proxy
from torch.nn import functional as F

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.dense.trident import Correlation, SAMRefinement, longest_to, regions_of
from vlm_dense.registry import MODELS

SAM = dict(
    type='vlm_dense.SAMEncoder',
    model='samvit_base_patch16',
    embed_dim=16,
    depth=2,
    num_heads=2,
    global_attn_indexes=[1],
    neck_chans=8,
)


def model(**options):
    torch.manual_seed(0)
    attention = dict(type='vlm_dense.TridentAttention', proxy=proxy())
    cfg = dict(
        type='vlm_dense.Trident',
        class_names=['circle', 'square', 'star'],
        backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True, dense_attention=attention),
        sam=SAM,
        text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
        test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16)),
    )
    found = MODELS.build(cfg | options).eval()
    found.decode_head.embed_classes = lambda *_: torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    return found


def correlation(heads=2, places=6, width=3):
    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(heads, places, places, generator=generator)
    return Correlation(weights, torch.randn(heads, places, width, generator=generator), (2, 3))


@pytest.mark.parametrize(('cos_fac', 'refine'), [(1.2, True), (-1.2, True), (-1.2, False), (9.0, True)])
def test_places_exchange_by_the_definition(cos_fac, refine):
    own, given = model(cos_fac=cos_fac, refine_neg_cos=refine), correlation()
    found = own.exchange(given)
    cosine = torch.stack([F.cosine_similarity(v[:, None], v[None], dim=-1) for v in given.values])
    for i in range(6):
        t = cos_fac * float(cosine[:, i].mean())
        t = 0.6 if t < 0 and not refine else t
        t = min(t, 0.9)
        row = [sum(float(given.weights[h, i, j]) for h in range(2) if float(cosine[h, i, j]) > t) / 2 for j in range(6)]
        torch.testing.assert_close(found[i], torch.tensor(row) / sum(row), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('size', 'expected'), [((32, 48), (32, 48)), ((58, 130), (64, 136)), ((20, 48), (32, 48))])
def test_images_are_enlarged_for_whole_patches_and_windows(size, expected):
    assert tuple(model().enlarged(torch.zeros(3, *size)).shape[1:]) == expected


@torch.no_grad()
def test_one_window_is_its_own_canvas_and_overlaps_are_averaged():
    own, image = model(), torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(0))
    features = own.extract_feat(torch.stack([image[:, :, :32], image[:, :, 16:]])).value  # patches of 8, a grid of 4
    canvas = own.canvas(image)
    cells = features.shape[3] // 2
    torch.testing.assert_close(canvas[:, :, :cells], features[0, :, :, :cells])
    torch.testing.assert_close(canvas[:, :, -cells:], features[1, :, :, -cells:])
    torch.testing.assert_close(canvas[:, :, cells:-cells], (features[0, :, :, cells:] + features[1, :, :, :cells]) / 2)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other():
    own = model(sam=dict(type='vlm_dense.TowerCorrelation', arch=ARCH, side=48))
    images = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    together = [s.seg_logits.data for s in own.predict(images, [SegDataSample(), SegDataSample()])]
    for image, expected in zip(images, together, strict=True):
        [sample] = own.predict(image[None], [SegDataSample()])
        torch.testing.assert_close(sample.seg_logits.data, expected, rtol=1e-4, atol=1e-5)


def test_regions_are_connected_by_corners_and_in_the_order_of_their_first_pixel():
    rows = ['..#....#', '.#....##', '........', '###....#', '#.#.....']
    mask = torch.tensor([[c == '#' for c in row] for row in rows])
    found = regions_of(mask, 2)
    assert [int(r.sum()) for r in found] == [2, 3, 5]  # the single pixel is too small
    assert bool(found[0][0, 2] and found[0][1, 1] and found[1][0, 7] and found[2][3, 0])


def test_no_region_that_sam_trusts_changes_nothing():
    scores = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    labels = scores.argmax(dim=0)

    def decoder(pixels):
        return lambda prompts: (torch.zeros(len(prompts.points), 1, 256, 256), torch.zeros(len(prompts.points), 1))

    refine = SAMRefinement(decoder, coarse_thresh=0.3, minimal_area=1)
    found, redrawn = refine(scores, labels, torch.zeros(3, 1024, 1024), (40, 60))
    assert torch.equal(found, scores) and torch.equal(redrawn, labels)


def test_sam_rounds_the_shorter_side():
    assert longest_to((50, 100), 1024) == (512, 1024) and longest_to((333, 500), 1024) == (682, 1024)


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True)), 'TridentAttention'),
        (dict(postprocess=['vlm_dense.PAMR']), 'not supported'),
        (dict(test_cfg=dict(mode='slide', crop_size=(32, 48), stride=(16, 16))), 'square crop_size'),
        (dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(12, 12))), 'multiples of the patch'),
        (dict(test_cfg=dict(mode='whole')), 'square crop_size'),
        (dict(sam=dict(SAM, global_attn_indexes=[0])), 'no image encoder of SAM'),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        model(**options)


def test_flips_augmentation_and_training_are_refused():
    own, image = model(), torch.zeros(1, 3, 32, 32)
    with pytest.raises(DataError, match='flipped'):
        own.predict(image, [SegDataSample(metainfo=dict(flip=True))])
    with pytest.raises(ConfigError, match='augmentation'):
        own.strip_maps(image, [SegDataSample()])
    with pytest.raises(ConfigError, match='not trained'):
        own.loss(image, [SegDataSample()])
    assert isinstance(own.raw(image[0], dict(ori_shape=(10, 20))), np.ndarray)
