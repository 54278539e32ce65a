"""Several tasks in one run: joined labels, mixed batches, losses and accuracies inside a task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from classification.small_runs import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS as ROOT_DATASETS

from vlm_dense.classification import ClsDataSample
from vlm_dense.contract.roles import Step
from vlm_dense.datasets.config_checks import class_names, leaves
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import METRICS, MODELS


def shapes(label: str, count: int = 6, several: bool = False, **kwargs) -> dict:
    pack = dict(type='vlm_dense.PackClsInputs', multi_label=several)
    return dict(
        type='vlm_dense.ShapesDataset',
        num_scenes=count,
        size=32,
        num_objects=(2, 3) if several else (1, 1),
        label=label,
        pipeline=[dict(type='vlm_dense.DrawScene'), pack],
        **kwargs,
    )


def joined(*datasets: dict, tasks=('shape', 'colour'), **kwargs):
    return ROOT_DATASETS.build(dict(type='vlm_dense.TaskDataset', datasets=list(datasets), tasks=tasks, **kwargs))


# --- the data ---------------------------------------------------------------------------------------------------------


def test_labels_count_the_classes_of_all_tasks():
    data = joined(shapes('shape', 6), shapes('colour', 4))
    assert len(data) == 10 and len(data.metainfo['classes']) == 16
    assert data.metainfo['tasks'] == dict(shape=data.metainfo['classes'][:8], colour=data.metainfo['classes'][8:])
    parts = [ROOT_DATASETS.build(shapes(*args)) for args in (('shape', 6), ('colour', 4))]
    for index in range(10):
        task, own = divmod(index, 6)
        found, wanted = data[index], parts[task][own]
        assert torch.equal(found['inputs'], wanted['inputs'])
        sample = found['data_samples']
        assert sample.gt_label == wanted['data_samples'].gt_label + 8 * task
        assert sample.task == task and sample.task_classes.tolist() == [8 * task, 8 * task + 8]
        name = parts[task].metainfo['classes'][wanted['data_samples'].gt_label]
        assert data.metainfo['classes'][sample.gt_label] == name


def test_several_labels_are_unknown_outside_of_the_task():
    data = joined(shapes('shape', 3, several=True), shapes('colour', 3, several=True))
    labels = torch.stack([data[i]['data_samples'].gt_labels for i in range(6)])
    assert (labels[:3, 8:] == -1).all() and (labels[3:, :8] == -1).all()
    assert (labels[:3, :8] >= 0).all() and (labels[3:, 8:].sum(1) > 0).all()


def test_reading_twice_gives_the_same():
    few = dict(type='vlm_dense.FewShotDataset', dataset=shapes('colour', 60), shots=1)
    data = joined(shapes('shape', 1), few)
    assert [data[3]['data_samples'].gt_label.item() for _ in range(3)] == 3 * [data[3]['data_samples'].gt_label.item()]
    assert len(data) == 9 and sorted(data[i]['data_samples'].gt_label.item() for i in range(1, 9)) == [*range(8, 16)]


@pytest.mark.parametrize('name', ['shapes_tasks', 'shapes_domains'])
def test_the_model_gets_the_names_of_all_tasks(name):
    config = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')
    names = class_names(config)
    assert len(names) == sum(config.tasks.values()) == {'shapes_tasks': 16, 'shapes_domains': 32}[name]
    loader = config.test_dataloader.dataset
    loader.datasets.num_scenes = 2
    data = ROOT_DATASETS.build(loader)
    assert data.metainfo['classes'] == names
    assert {task: len(of_task) for task, of_task in data.metainfo['tasks'].items()} == config.tasks


def test_tasks_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ConfigError, match="'shape' and 'colour' both have classes named 'circle', .*same_names=True"):
        joined(shapes('shape'), shapes('shape', domain='night'))
    assert len(joined(shapes('shape'), shapes('shape', domain='night'), same_names=True).metainfo['classes']) == 16
    for tasks in (('one', 'one'), ('a_task', 'a task'), ('one',), ('one', 'two', 'three')):
        with pytest.raises(ConfigError, match='a different name for each of the 2 data sets'):
            joined(shapes('shape'), shapes('colour'), tasks=tasks)
    with pytest.raises(ConfigError, match='at least one'):
        joined(tasks=())


def test_one_config_for_all_tasks_is_that_of_each_with_its_name():
    once = ROOT_DATASETS.build(
        dict(type='vlm_dense.TaskDataset', datasets=shapes('{task}', 4), tasks=['shape', 'colour'])
    )
    each = joined(shapes('shape', 4), shapes('colour', 4))
    assert once.metainfo == each.metainfo
    assert all(torch.equal(once[i]['data_samples'].gt_label, each[i]['data_samples'].gt_label) for i in range(8))
    path = ROOT / 'configs/mvlpt/mvlpt_elevater20.py'
    told, *_ = leaves(Config.fromfile(path).train_dataloader.dataset, 'train')
    assert (told[0], told[1]['name']) == ('train.datasets.0', 'elevater-hateful-memes')


# --- the loss ---------------------------------------------------------------------------------------------------------

RANGES = [(0, 2), (2, 5)]


def samples(tasks, labels) -> list:
    return [
        ClsDataSample(gt_label=torch.tensor(label), task=torch.tensor(t), task_classes=torch.tensor(RANGES[t]))
        for t, label in zip(tasks, labels, strict=True)
    ]


def loss_of(others: str, logits, data, classes=None):
    step = Step(None, None, None, logits, None, data, tuple('abcde'), classes)
    return MODELS.build(dict(type='vlm_dense.TaskCrossEntropy', others=others))(step)['loss_ce']


def test_the_loss_of_each_kind_is_that_of_each_image_alone():
    logits, tasks, labels = torch.randn(3, 5), [0, 1, 1], [1, 2, 4]
    data = samples(tasks, labels)
    kept, zero, left_out = [], [], []
    for row, task, label in zip(logits, tasks, labels, strict=True):
        first, end = RANGES[task]
        kept.append(math.log(row.exp().sum()) - row[label])
        outside = 5 - (end - first)
        zero.append(math.log(row[first:end].exp().sum() + outside) - row[label])
        left_out.append(math.log(row[first:end].exp().sum()) - row[label])
    for others, wanted in dict(kept=kept, zero=zero, left_out=left_out).items():
        torch.testing.assert_close(loss_of(others, logits, data), torch.stack(wanted).mean())


def test_some_of_the_classes_in_any_order_serve():
    logits, classes = torch.randn(2, 5), torch.tensor([4, 1, 2, 0])
    data = samples([0, 1], [1, 4])
    wanted = F.cross_entropy(logits[:1, [1, 0]], torch.tensor([0])) + F.cross_entropy(
        logits[1:, [4, 2]], torch.tensor([0])
    )
    torch.testing.assert_close(loss_of('left_out', logits[:, classes], data, classes), wanted / 2)


@pytest.mark.parametrize('others', ['kept', 'zero', 'left_out'])
def test_several_labels_are_soft_targets(others):
    logits = torch.randn(2, 5, requires_grad=True)
    data = samples([0, 1], [0, 2])
    for sample, row in zip(data, ([0, 1, -1, -1, -1], [-1, -1, 1, 0, 1]), strict=True):
        del sample.gt_label
        sample.gt_labels = torch.tensor(row)
    single = [loss_of(others, logits[i : i + 1], samples([t], [k])) for i, t, k in ((0, 0, 1), (1, 1, 2), (1, 1, 4))]
    found = loss_of(others, logits, data)
    torch.testing.assert_close(found, (single[0] + (single[1] + single[2]) / 2) / 2)
    found.backward()
    assert logits.grad.isfinite().all()
    mixed = [samples([0], [1])[0], data[1]]
    torch.testing.assert_close(loss_of(others, logits, mixed), (single[0] + (single[1] + single[2]) / 2) / 2)
    data[0].gt_labels[:] = 0
    with pytest.raises(DataError, match='shows none of the classes'):
        loss_of(others, logits, data)


def test_a_loss_without_tasks_is_explained():
    with pytest.raises(DataError, match='has no task. Data of several tasks come from vlm_dense.TaskDataset'):
        loss_of('zero', torch.zeros(1, 5), [ClsDataSample().set_label(0)])
    with pytest.raises(ConfigError, match="others must be one of .*found 'none'"):
        MODELS.build(dict(type='vlm_dense.TaskCrossEntropy', others='none'))


# --- the metric -------------------------------------------------------------------------------------------------------


def test_accuracy_is_that_inside_of_each_task():
    metric = METRICS.build(dict(type='vlm_dense.TaskAccuracy'))
    metric.dataset_meta = dict(tasks={'first': ('a', 'b'), 'second': ('c', 'd', 'e')})
    scores = np.array([[1, 0, 9, 9, 9], [9, 9, 0, 2, 1], [9, 9, 0, 2, 1], [9, 9, 3, 2, 1]], np.float32)
    data = samples([0, 1, 1, 1], [0, 3, 4, 2])
    for sample, row in zip(data, scores, strict=True):
        sample.pred_scores = torch.from_numpy(row)
    metric.process(None, [sample.to_dict() for sample in data])
    found = metric.evaluate(4)
    assert found == pytest.approx({'first/top1': 100.0, 'second/top1': 200 / 3, 'top1': (100 + 200 / 3) / 2})


def test_a_task_of_several_labels_has_a_mean_average_precision():
    metric = METRICS.build(dict(type='vlm_dense.TaskAccuracy'))
    metric.dataset_meta = dict(tasks={'first': ('a', 'b'), 'second': ('c', 'd', 'e')})
    data = samples([0, 1, 1], [0, 3, 4])
    for sample, row in zip(data, ([1, 0, 9, 9, 9], [9, 9, 3, 2, 1], [9, 9, 2, 3, 0]), strict=True):
        sample.pred_scores = torch.tensor(row, dtype=torch.float32)
    for sample, row in zip(data[1:], ([-1, -1, 1, 0, 0], [-1, -1, 0, 0, 1]), strict=True):
        del sample.gt_label
        sample.gt_labels = torch.tensor(row)
    metric.process(None, [sample.to_dict() for sample in data])
    # of the second task: class c is found first, class e last of two, class d is not shown
    assert metric.evaluate(3) == pytest.approx({'first/top1': 100.0, 'second/mAP': 75.0, 'top1': 87.5})


def test_accuracy_without_tasks_is_explained():
    metric = METRICS.build(dict(type='vlm_dense.TaskAccuracy'))
    with pytest.raises(DataError, match='no task or no label'):
        metric.process(None, [dict(gt_label=torch.tensor(0), pred_scores=torch.zeros(3))])
