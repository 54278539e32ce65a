"""Figures that say where a method loses, against the same pixel by pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vlm_dense.errors import ConfigError
from vlm_dense.registry import METRICS
from vlm_dense.segmentation.confusion import confusion, mean_iou
from vlm_dense.segmentation.oracles import (
    BINS,
    boundary,
    calibration_error,
    labels_of_present,
    labels_of_segments,
    reliability,
    segments,
)

IGNORED = 255


def blocks(seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth in blocks with ignored pixels, predictions and probabilities, of one image."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 14, 2)
    coarse = rng.integers(0, classes - 1, (5, 5)).repeat(3, 0).repeat(3, 1)[:height, :width]  # one class is absent
    truth = np.where(rng.random(coarse.shape) < 0.15, IGNORED, coarse)
    scores = torch.from_numpy(rng.dirichlet(np.ones(classes), coarse.shape)).permute(2, 0, 1).float()
    return torch.from_numpy(truth), scores.argmax(0), scores


def neighbours(y: int, x: int, shape, reach: int):
    """Pixels at most so many away in each direction, the pixel among them."""
    for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
        if 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]:
            yield y + dy, x + dx


@pytest.mark.parametrize('seed', range(20))
def test_segments_are_connected_pixels_of_a_label(seed):
    truth, _, _ = blocks(seed)
    found, seen, number = segments(truth), {}, 0
    for y, x in itertools.product(*map(range, truth.shape)):
        if truth[y, x] == IGNORED or (y, x) in seen:
            continue
        todo = [(y, x)]
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen[here] = number
            todo += [n for n in neighbours(*here, truth.shape, 1) if truth[n] == truth[here]]
        number += 1
    assert (found == -1).equal(truth == IGNORED)
    pairs = {(seen[place], int(found[place])) for place in seen}
    assert len(pairs) == number == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize('seed', range(20))
def test_a_true_segment_gets_the_label_of_most_of_its_pixels(seed):
    truth, predicted, _ = blocks(seed)
    predicted[0, 0] = 9  # no class, which has no vote
    found, part = labels_of_segments(predicted, truth, 4), segments(truth)
    for number in range(int(part.max()) + 1):
        votes = [int((predicted[part == number] == k).sum()) for k in range(4)]
        wanted = votes.index(max(votes)) if max(votes) else 4
        assert (found[part == number] == wanted).all()
    assert found[part < 0].equal(predicted[part < 0])


def test_an_image_without_a_true_segment_keeps_its_labels():
    predicted = torch.randint(0, 3, (4, 5))
    assert labels_of_segments(predicted, torch.full((4, 5), IGNORED), 3).equal(predicted)


@pytest.mark.parametrize('seed', range(10))
def test_only_classes_of_the_image_are_named(seed):
    truth, predicted, scores = blocks(seed)
    present = torch.tensor([k in truth for k in range(4)])
    found = labels_of_present(predicted, scores, present)
    for y, x in itertools.product(*map(range, truth.shape)):
        best = max((k for k in range(4) if present[k]), key=lambda k: scores[k, y, x])
        assert found[y, x] == best


def test_what_a_threshold_has_decided_stays_if_the_class_is_there():
    scores = torch.tensor([0.1, 0.3, 0.6])[:, None, None].expand(3, 1, 2)
    predicted = torch.tensor([[0, 2]])  # the first pixel was sent to the background
    assert labels_of_present(predicted, scores, torch.tensor([True, True, False])).tolist() == [[0, 1]]
    assert labels_of_present(predicted, scores, torch.tensor([False, True, True])).tolist() == [[2, 2]]


@pytest.mark.parametrize('seed', range(20))
def test_a_boundary_is_where_another_class_is_near(seed):
    truth, _, _ = blocks(seed)
    width = seed % 3 + 1
    found = boundary(truth, width)
    for y, x in itertools.product(*map(range, truth.shape)):
        near = {int(truth[n]) for n in neighbours(y, x, truth.shape, width)} - {IGNORED}
        assert found[y, x] == (truth[y, x] != IGNORED and len(near) > 1)


@pytest.mark.parametrize('seed', range(10))
def test_the_calibration_error_is_that_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    confidence = torch.from_numpy(rng.random(200)).float()
    confidence[:3] = torch.tensor([1.0, 1 / BINS, 0.0])
    right = torch.from_numpy(rng.random(200) < confidence.numpy())
    wanted = 0.0
    for k in range(BINS):
        inside = (confidence.double() > k / BINS) & (confidence.double() <= (k + 1) / BINS)
        inside |= (confidence == 0) & (k == 0)
        if inside.any():
            gap = confidence[inside].double().mean() - right[inside].double().mean()
            wanted += float(gap.abs()) * int(inside.sum()) / 200
    assert calibration_error(reliability(confidence, right)) == pytest.approx(wanted, abs=1e-9)
    halves = reliability(confidence[:90], right[:90]) + reliability(confidence[90:], right[90:])
    assert calibration_error(halves) == pytest.approx(wanted, abs=1e-9)


def test_the_calibration_error_is_that_of_torchmetrics():
    functional = pytest.importorskip('torchmetrics.functional.classification')
    _, _, scores = blocks(7)
    truth = torch.randint(0, 4, scores.shape[1:])
    theirs = functional.multiclass_calibration_error(scores[None], truth[None], num_classes=4, n_bins=BINS)
    confidence, labels = scores.max(0)
    assert calibration_error(reliability(confidence, labels == truth)) == pytest.approx(float(theirs), abs=1e-6)


def sample(truth, predicted, scores, **kind) -> dict:
    data = dict(gt_sem_seg=truth[None], pred_sem_seg=predicted[None], seg_logits=scores)
    return {name: dict(data=value) for name, value in data.items()} | {'seg_logits': dict(data=scores, **kind)}


def evaluated(samples: list, **options) -> dict[str, float]:
    metric = METRICS.build(dict(type='vlm_dense.OracleMetric', **options))
    metric.dataset_meta = dict(classes=list('abcd'))
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def test_the_component_reports_the_whole_test():
    images = [blocks(seed) for seed in range(4)]
    found = evaluated([sample(*one, kind='probabilities') for one in images], width=1)
    by_hand = {name: torch.zeros(5, 5).long() for name in ('oracle_masks', 'oracle_classes', 'boundary', 'interior')}
    table, edges, every = torch.zeros(BINS, 3), 0, 0
    for truth, predicted, scores in images:
        edge, counted = boundary(truth, 1), truth != IGNORED
        present = torch.tensor([k in truth for k in range(4)])
        by_hand['oracle_masks'] += confusion(labels_of_segments(predicted, truth, 4), truth, 4)
        by_hand['oracle_classes'] += confusion(labels_of_present(predicted, scores, present), truth, 4)
        by_hand['boundary'] += confusion(predicted[edge], truth[edge], 4)
        by_hand['interior'] += confusion(predicted[~edge], truth[~edge], 4)
        table = table + reliability(scores.max(0)[0][counted], (predicted == truth)[counted])
        edges, every = edges + int(edge.sum()), every + int(counted.sum())
    for name, matrix in by_hand.items():
        assert found[f'{name}_mIoU'] == pytest.approx(mean_iou(matrix), abs=0.006), name
    assert found['boundary_share'] == pytest.approx(100 * edges / every, abs=0.006)
    assert found['ECE'] == pytest.approx(100 * calibration_error(table), abs=0.006)


def test_a_perfect_prediction_loses_nothing():
    truth = blocks(2)[0]
    labels = truth.masked_fill(truth == IGNORED, 0)
    scores = torch.nn.functional.one_hot(labels, 4).permute(2, 0, 1).float()
    found = evaluated([sample(truth, labels, scores, kind='probabilities')])
    assert found.pop('ECE') == 0 and found.pop('boundary_share') > 0
    known = {name: value for name, value in found.items() if not np.isnan(value)}
    assert set(known.values()) == {100.0} and 'oracle_masks_mIoU' in known


def test_logits_become_probabilities_by_what_they_say_they_are():
    truth, predicted, scores = blocks(5)
    of_logits = sample(truth, predicted, scores.log() / 40, kind='logits', scale=40.0)
    of_weights = sample(truth, predicted, 3 * scores, kind='weights')
    wanted = evaluated([sample(truth, predicted, scores, kind='probabilities')])
    wanted = pytest.approx(wanted, abs=0.006, nan_ok=True)
    assert evaluated([of_logits]) == wanted and evaluated([of_weights]) == wanted


def test_labels_without_scores_are_refused():
    one = sample(*blocks(1))
    del one['seg_logits']
    with pytest.raises(ConfigError, match='keep_logits=True'):
        evaluated([one])
    with pytest.raises(ConfigError, match='at least 1 px'):
        METRICS.build(dict(type='vlm_dense.OracleMetric', width=0))
