"""Several labels an image: the vector of labels, and the metrics against their definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS, METRICS, TRANSFORMS


def measure(scores, labels, **kwargs) -> dict:
    metric = METRICS.build(dict(type='vlm_dense.MultiLabelMetric', **kwargs))
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels)
    metric.process(None, [dict(pred_scores=s, gt_labels=y) for s, y in zip(scores, labels, strict=True)])
    return metric.evaluate(len(labels))


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def written_out(scores: np.ndarray, labels: np.ndarray, topk: int = 3) -> dict:
    """The definitions, image by image and class by class."""
    images, classes = labels.shape
    precisions, class_precision, class_recall = [], [], []
    total = np.zeros(3)
    for k in range(classes):
        known = [i for i in range(images) if labels[i, k] >= 0]
        shown = [i for i in known if labels[i, k] == 1]
        if shown:
            parts = []
            for i in shown:
                not_below = [j for j in known if scores[j, k] >= scores[i, k]]
                parts.append(sum(labels[j, k] == 1 for j in not_below) / len(not_below))
            precisions.append(np.mean(parts))
        claimed = [i for i in known if scores[i, k] > 0]
        right = sum(labels[i, k] == 1 for i in claimed)
        class_precision.append(right / len(claimed) if claimed else 0.0)
        if shown:
            class_recall.append(right / len(shown))
        total += right, len(claimed), len(shown)
    best = np.zeros(3)
    for i in range(images):
        known = [k for k in range(classes) if labels[i, k] >= 0]
        first = sorted(known, key=lambda k, i=i: -scores[i, k])[:topk]
        best += sum(labels[i, k] == 1 for k in first), len(first), sum(labels[i, k] == 1 for k in known)
    return {
        'mAP': 100 * np.mean(precisions),
        'CF1': 100 * f1(np.mean(class_precision), np.mean(class_recall)),
        'OF1': 100 * f1(total[0] / total[1], total[0] / total[2]),
        f'F1@{topk}': 100 * f1(best[0] / best[1], best[0] / best[2]),
    }


@pytest.mark.parametrize('topk', [1, 3])
def test_metrics_equal_their_definitions(topk):
    draw = np.random.RandomState(topk)
    labels = draw.choice([-1, 0, 1], (40, 7), p=[0.2, 0.5, 0.3])
    labels[:, 5] = 0  # a class that no image shows
    scores = np.round(draw.normal(size=(40, 7)) + labels, 1).astype(np.float32)  # rounded: some are equal
    assert measure(scores, labels, topk=topk) == pytest.approx(written_out(scores, labels, topk))


def test_average_precision_of_a_ranking_by_hand():
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    labels = np.array([[1], [0], [1], [0]])
    assert measure(scores, labels)['mAP'] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert measure(np.zeros((4, 1)), labels)['mAP'] == pytest.approx(50.0)  # all equal: no order helps


def test_unknown_labels_change_nothing():
    labels = np.array([[1, 0, 1], [0, 1, -1]])
    scores = np.array([[2.0, -1.0, 1.0], [-2.0, 3.0, 5.0]])
    lower = np.array([[2.0, -1.0, 1.0], [-2.0, 3.0, -5.0]])
    assert measure(scores, labels, topk=1) == measure(lower, labels, topk=1)
    assert measure(scores, labels)['mAP'] == 100.0


def test_scores_that_are_not_numbers_are_never_right():
    nan = float('nan')
    found = measure([[nan], [1.0], [nan]], [[1], [0], [0]])
    assert found['mAP'] == pytest.approx(100 / 3) and found['OF1'] == 0.0


def test_without_any_shown_class_all_is_zero():
    assert set(measure([[1.0, -1.0]], [[0, 0]]).values()) == {0.0}


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(DataError, match='expected 1, 0 or -1'):
        measure([[1.0, 2.0]], [[0, 2]])
    with pytest.raises(DataError, match=r'\(2,\) labels'):
        measure([[1.0]], [[0, 1]])
    with pytest.raises(ConfigError, match='topk must be at least 1'):
        measure([[1.0]], [[0]], topk=0)


def pack(multi_label=True, **results):
    image = np.zeros((4, 4, 3), np.uint8)
    step = TRANSFORMS.build(dict(type='vlm_dense.PackClsInputs', multi_label=multi_label))
    return step(dict(img=image, img_path='a.png', **results))['data_samples'].gt_labels


def test_shown_absent_and_unknown_classes_become_a_vector():
    vector = pack(gt_labels=[0, 3], unknown_labels=[1, 3], num_classes=5)
    assert vector.tolist() == [1, -1, 0, 1, 0] and vector.dtype == torch.int64
    assert pack(gt_labels=[], num_classes=2).tolist() == [0, 0]
    assert pack(None, gt_labels=[1], num_classes=2).tolist() == [0, 1]  # without a single label
    with pytest.raises(DataError, match='a.png has the label 5 in gt_labels; expected 0 to 4'):
        pack(gt_labels=[5], num_classes=5)
    with pytest.raises(DataError, match='a.png has no gt_labels'):
        pack(gt_label=1, num_classes=5)


def test_drawn_scenes_have_several_labels():
    pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs', multi_label=True)]
    scenes = DATASETS.build(
        dict(type='vlm_dense.ShapesDataset', num_scenes=3, num_objects=(2, 4), size=48, pipeline=pipeline)
    )
    plain = DATASETS.build(
        dict(type='vlm_dense.ShapesDataset', num_scenes=3, num_objects=(2, 4), size=48, pipeline=pipeline[:1])
    )
    for i in range(3):
        vector = scenes[i]['data_samples'].gt_labels
        assert vector.shape == (8,) and vector.nonzero()[:, 0].tolist() == plain[i]['gt_labels'].tolist()
