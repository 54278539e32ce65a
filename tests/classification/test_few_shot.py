"""Few-shot choice: K of each class, the same for the same seed, as the official code draws."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from mmengine.dataset import BaseDataset

from vlm_dense.engine.runner.seeding import SeededDataset
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS

LABELS = [2, 0, 0, 1, 2, 0, 1, 2, 2, 0]


@DATASETS.register_module(force=True)
class ListedLabels(BaseDataset):
    """Labels in a list."""

    METAINFO = dict(classes=('a', 'b', 'c'))

    def load_data_list(self):
        return [dict(gt_label=y, number=i) for i, y in enumerate(LABELS)]


def build(shots: int, seed: int = 1, at_most: int | None = None, **kwargs):
    inner = dict(type='vlm_dense.ListedLabels') | kwargs
    return DATASETS.build(dict(type='vlm_dense.FewShotDataset', shots=shots, seed=seed, at_most=at_most, dataset=inner))


def numbers(dataset) -> list[int]:
    return [dataset[i]['number'] for i in range(len(dataset))]


def test_choice_equals_the_official_drawing():
    random.seed(5)
    wanted = [i for label in (2, 0, 1) for i in random.sample([i for i, y in enumerate(LABELS) if y == label], 2)]
    assert numbers(build(2, 5)) == wanted
    assert numbers(build(2, 6)) != wanted
    assert build(2).metainfo['classes'] == ('a', 'b', 'c')


def test_a_class_with_fewer_images_gives_all_and_says_so(monkeypatch):
    said = []
    monkeypatch.setattr('vlm_dense.classification.few_shot.print_log', lambda message, **_: said.append(message))
    dataset = build(3)
    assert '1 classes have fewer than 3 images and give all they have: b (2)' in said[0]
    assert Counter(dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))) == {2: 3, 0: 3, 1: 2}


def test_validation_takes_at_most_so_many():
    assert Counter(LABELS[i] for i in numbers(build(3, at_most=1))) == dict.fromkeys(range(3), 1)
    assert numbers(build(1, at_most=4)) == numbers(build(1))
    with pytest.raises(ConfigError, match='shots must be at least 1, found 0'):
        build(3, at_most=0)


def test_labels_out_of_range_are_refused():
    with pytest.raises(DataError, match='has the label 2; expected 0 to 1 for 2 classes'):
        build(1, metainfo=dict(classes=('a', 'b')))


def test_a_class_without_images_and_no_shots_are_refused():
    with pytest.raises(DataError, match=r'1 of 4 classes have no image .*: d\.'):
        build(1, metainfo=dict(classes=('a', 'b', 'c', 'd')))
    with pytest.raises(ConfigError, match='shots must be at least 1, found 0'):
        build(0)


def test_drawn_scenes_are_chosen_by_the_label_that_is_drawn():
    pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')]
    scene = dict(type='vlm_dense.ShapesDataset', num_scenes=60, num_objects=(1, 1), size=32, pipeline=pipeline)
    dataset = build(2, **scene)
    labels = [int(dataset[i]['data_samples'].gt_label) for i in range(len(dataset))]
    assert Counter(labels) == dict.fromkeys(range(8), 2)
    assert SeededDataset(dataset)[3]['inputs'].equal(dataset[3]['inputs'])
    with pytest.raises(DataError, match=r'num_objects=\(1, 1\)'):
        build(2, **dict(scene, num_objects=(2, 2)))
