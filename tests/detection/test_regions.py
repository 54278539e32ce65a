"""Crops of regions, how two classifications are joined, boxes with a last pixel inside, and the losses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_towers import resnet, vit
from torchvision.ops import RoIAlign

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.tower import CLIPTower
from vlm_dense.detection.regions import AttentionPoolScorer, CornerRoIAlign, DenseMapScorer, fuse
from vlm_dense.detection.text_head import InclusiveBoxCoder, MeanSmoothL1Loss, NormedLinear, RegionCrossEntropy
from vlm_dense.errors import ConfigError
from vlm_dense.registry import TASK_UTILS


def sampled(plane: torch.Tensor, box: list[float], stride: int, size: int) -> torch.Tensor:
    """F-VLM's crop, written out: one sample a bin, in positions of the map, clamped to it."""
    x1, y1, x2, y2 = box
    found = torch.empty(size, size)
    for i in range(size):
        for j in range(size):
            y = (y1 + (i + 0.5) * (y2 - y1) / size) / stride
            x = (x1 + (j + 0.5) * (x2 - x1) / size) / stride
            top, left = math.floor(y), math.floor(x)
            total = 0.0
            for yy, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
                for xx, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
                    total += wy * wx * plane[min(yy, plane.shape[0] - 1), min(xx, plane.shape[1] - 1)]
            found[i, j] = total
    return found


@pytest.mark.parametrize('box', [[10.0, 20.0, 90.0, 70.0], [40.0, 33.0, 52.0, 41.0], [96.0, 64.0, 128.0, 96.0]])
def test_a_crop_samples_the_map_at_the_corners_of_its_cells_and_keeps_small_boxes_small(box):
    plane = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0.0, *box]])
    wanted = sampled(plane, box, 32, 2)
    torch.testing.assert_close(CornerRoIAlign(2, 1 / 32)(plane[None, None], rois)[0, 0], wanted, atol=1e-5, rtol=0)
    others = [RoIAlign(2, 1 / 32, 1, aligned=True)]  # half a cell off
    if min(box[2] - box[0], box[3] - box[1]) < 32:
        others.append(RoIAlign(2, 1 / 32, 1, aligned=False))  # enlarges what is smaller than a cell
    for other in others:
        assert (other(plane[None, None], rois)[0, 0] - wanted).abs().max() > 0.05


def test_a_region_on_one_cell_of_a_dense_map_has_the_embedding_of_that_cell():
    tower = CLIPTower(vit(), frozen=True)
    dense = torch.randn(2, 16, 4, 4)
    rois = torch.tensor([[1.0, 8, 16, 16, 24], [0.0, 0, 0, 32, 32]])
    found = DenseMapScorer()(tower, ImageFeatures(value=dense), rois)
    unit = F.normalize(dense, dim=1)
    torch.testing.assert_close(found[0], unit[1, :, 2, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], unit[0].mean(dim=(1, 2)), atol=1e-4, rtol=0)  # not of vectors of any length


def test_the_pool_embeds_the_whole_map_as_the_tower_embeds_the_image_it_comes_from():
    tower = CLIPTower(resnet(), frozen=True)
    with torch.no_grad():
        features = tower.encode(torch.randn(2, 3, 64, 64), ('patch', 'global'))
        scorer = AttentionPoolScorer(chunk=2)
        whole = torch.tensor([[i, -16.0, -16.0, 48.0, 48.0] for i in (0.0, 1.0, 0.0)])  # bins on the map's positions
        found = scorer(tower, features, whole)
        assert scorer(tower, features, whole[:0]).shape == (0, 16)
    torch.testing.assert_close(found, features.global_[[0, 1, 0]], atol=1e-4, rtol=0)


def test_a_tower_without_attention_pool_is_told_the_other_scorer():
    with pytest.raises(ConfigError, match='DenseMapScorer'):
        AttentionPoolScorer().check(CLIPTower(vit(), frozen=True))


def test_probabilities_are_joined_as_the_papers_write():
    rng = torch.Generator().manual_seed(1)
    detector, clip = (3 * torch.randn(5, 4, generator=rng) for _ in range(2))
    novel, a, b = torch.tensor([False, True, True, False]), 0.2, 0.7
    p, q = detector.softmax(1), clip.softmax(1)
    base, new = p ** (1 - a) * q**a, p ** (1 - b) * q**b
    fused = torch.stack([base[:, 0], new[:, 1], new[:, 2], base[:, 3]], dim=1)
    torch.testing.assert_close(fuse(detector, clip, novel, a, b, 'fused'), fused)
    own = torch.cat([fused[:, :3], p[:, 3:]], dim=1)
    torch.testing.assert_close(fuse(detector, clip, novel, a, b), own)
    renormalised = fuse(detector, clip, novel, a, b, renormalise=True)
    torch.testing.assert_close(renormalised, own / own.sum(1, keepdim=True))
    torch.testing.assert_close(fuse(detector, clip, novel, 0.0, 0.0), p)


def test_boxes_with_a_last_pixel_inside_decode_to_what_was_encoded():
    boxes = torch.tensor([[10.0, 20.0, 29.0, 59.0], [0.0, 0.0, 7.0, 7.0]])
    targets = torch.tensor([[12.0, 18.0, 33.0, 52.0], [1.0, 2.0, 9.0, 6.0]])
    coder = InclusiveBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
    deltas = coder.encode(boxes, targets)
    torch.testing.assert_close(deltas[0, 2:], 5 * torch.log(torch.tensor([22 / 20, 35 / 40])))
    torch.testing.assert_close(coder.decode(boxes, deltas), targets)
    legacy = TASK_UTILS.build(dict(type='mmdet.LegacyDeltaXYWHBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2)))
    torch.testing.assert_close(legacy.encode(boxes, targets), deltas)
    assert (legacy.decode(boxes, deltas) - targets).abs().min() > 0.4  # half a pixel off on every side
    wide = coder.decode(boxes, coder.encode(boxes, targets + 100), max_shape=(50, 40))
    assert wide[0].tolist() == [39, 49, 39, 49]
    plain = TASK_UTILS.build(dict(type='mmdet.DeltaXYWHBBoxCoder'))
    assert plain.decode(boxes, torch.zeros(2, 4), max_shape=(50, 20))[0, 2] == 20  # W, not W - 1


def test_losses_are_averaged_over_regions_and_over_entries():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 3, 1, 2, 3])
    loss = RegionCrossEntropy(background_weight=0.6)(logits, labels, torch.ones(6), avg_factor=6.0)
    each = F.cross_entropy(logits, labels, reduction='none')
    torch.testing.assert_close(loss, (each * torch.tensor([1, 0.6, 0.6, 1, 1, 0.6])).sum() / 6)
    pred, target = 3 * torch.randn(3, 4), torch.randn(3, 4)
    found = MeanSmoothL1Loss()(pred, target, torch.ones(3, 4), avg_factor=100)
    torch.testing.assert_close(found, F.huber_loss(pred, target))


@pytest.mark.parametrize('kind', ['BN', 'SyncBN'])
def test_a_norm_behind_a_linear_layer_is_of_the_kind_that_is_asked_for(kind):
    layer = NormedLinear(4, 6, dict(type=kind, eps=1e-4)).eval()
    assert layer.bn.eps == 1e-4 and isinstance(layer.bn, torch.nn.SyncBatchNorm) == (kind == 'SyncBN')
    layer.bn.running_mean.fill_(2.0)
    x = torch.randn(3, 4)
    wanted = (torch.nn.functional.linear(x, layer.weight, layer.bias) - 2) / (1 + 1e-4) ** 0.5
    torch.testing.assert_close(layer(x), wanted)
