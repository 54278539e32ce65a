"""Counts of pixels agree with mmseg and torchmetrics on any labels, and with a count pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from vlm_dense.registry import METRICS
from vlm_dense.segmentation.confusion import class_ious, confusion, mean_iou, sparse, total

CASES = 1000


def random_images(seed: int) -> tuple[int, list[tuple[torch.Tensor, torch.Tensor]]]:
    """K, and predictions and truth of some images: classes that are absent, ignored pixels, whole images of them."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 9))
    there = rng.permutation(classes)[: rng.integers(1, classes + 1)]
    images = []
    for _ in range(rng.integers(1, 4)):
        shape = tuple(rng.integers(0 if seed % 10 == 0 else 1, 9, 2))  # an image without pixels now and then
        truth, predicted = rng.choice(there, shape), rng.integers(0, classes, shape)
        kind = rng.integers(4)
        truth = np.where(rng.random(shape) < (0, 0.3, 0.9, 1)[kind], 255, truth)  # also nothing but ignored pixels
        images.append((torch.from_numpy(predicted), torch.from_numpy(truth)))
    return classes, images


def of_mmseg(classes: int, images: list) -> tuple[np.ndarray, float]:
    """IoU of classes and their mean, in percent, not rounded."""
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=[str(k) for k in range(classes)])
    areas = [metric.intersect_and_union(p, t, classes, 255) for p, t in images]
    sums = [sum(column) for column in zip(*areas, strict=True)]
    ious = metric.total_area_to_metrics(*sums, ['mIoU'])['IoU'] * 100
    return np.asarray(ious), float(np.nanmean(ious)) if not np.isnan(ious).all() else float('nan')


def of_metric(classes: int, images: list) -> np.ndarray:
    """The matrix of the component."""
    metric = METRICS.build(dict(type='vlm_dense.ConfusionMatrix'))
    metric.dataset_meta = dict(classes=[str(k) for k in range(classes)])
    for predicted, truth in images:
        data = dict(pred_sem_seg=dict(data=predicted[None]), gt_sem_seg=dict(data=truth[None]))
        metric.process({}, [data])
    metric.evaluate(len(images))
    return metric.matrix


def test_iou_is_that_of_mmseg_in_a_thousand_random_cases():
    worst = 0.0
    for seed in range(CASES):
        classes, images = random_images(seed)
        ious, mean = of_mmseg(classes, images)
        matrix = total([sparse(confusion(p, t, classes)) for p, t in images], classes)
        np.testing.assert_array_equal(np.isnan(class_ious(matrix)), np.isnan(ious))
        worst = max(worst, *np.nan_to_num(np.abs(100 * class_ious(matrix) - ious)))
        assert (np.isnan(mean_iou(matrix)) and np.isnan(mean)) or abs(mean_iou(matrix) - mean) < 1e-4
    assert worst < 1e-4, worst  # mmseg divides in float32


def test_iou_is_that_of_torchmetrics_in_a_thousand_random_cases():
    functional = pytest.importorskip('torchmetrics.functional.classification')
    worst = 0.0
    for seed in range(CASES):
        classes, images = random_images(seed)
        predicted, truth = (torch.cat([pair[i].flatten() for pair in images]) for i in (0, 1))
        if not (truth != 255).any():
            continue
        options = dict(num_classes=classes, average='none', ignore_index=255, validate_args=False)
        theirs = functional.multiclass_jaccard_index(predicted, truth, **options).numpy() * 100
        ours = 100 * class_ious(of_metric(classes, images))
        there = ~np.isnan(ours)  # theirs are 0 for a class that is neither there nor predicted
        assert (theirs[~there] == 0).all()
        worst = max(worst, *np.abs(ours - theirs)[there])
    assert worst < 1e-4, worst


def test_the_metric_sums_images_and_reports_nothing_itself():
    classes, images = random_images(3)
    assert np.array_equal(of_metric(classes, images), sum(confusion(p, t, classes).numpy() for p, t in images))


def test_a_pixel_counts_where_it_is_and_where_it_is_put():
    predicted, truth = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 0, 1, 255, 1])
    assert confusion(predicted, truth, 3).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    ious = class_ious(confusion(predicted, truth, 3))
    assert ious[:2].tolist() == [1 / 3, 1 / 3] and np.isnan(ious[2])


def test_labels_that_are_no_class_count_for_the_other_side_as_in_mmseg():
    predicted, truth = torch.tensor([0, 1, 7, 1]), torch.tensor([9, 1, 1, 0])
    matrix = confusion(predicted, truth, 2)
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    ious, _ = of_mmseg(2, [(predicted, truth)])
    np.testing.assert_allclose(100 * class_ious(matrix), ious, rtol=1e-6)
