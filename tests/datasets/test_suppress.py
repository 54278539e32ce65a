"""Labels that are taken away do not come back."""

from __future__ import annotations

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope

from vlm_dense.datasets import SuppressLabels
from vlm_dense.errors import ConfigError


def results() -> dict:
    labels = np.repeat(np.array([0, 1, 2, 255], np.uint8), 8)[None].repeat(24, 0)
    return dict(img=np.zeros((24, 32, 3), np.uint8), gt_seg_map=labels, seg_fields=['gt_seg_map'], img_shape=(24, 32))


def test_listed_classes_become_unlabelled_and_the_others_stay():
    found = SuppressLabels([1, 2]).transform(results())['gt_seg_map']
    assert np.array_equal(found[0, ::8], [0, -1, -1, 255])


def test_without_a_list_no_label_map_is_left():
    found = SuppressLabels().transform(results())
    assert 'gt_seg_map' not in found and found['seg_fields'] == []


def test_augmentation_keeps_unlabelled_pixels_apart_from_ignored_ones():
    init_default_scope('mmseg')
    steps = Compose(
        [
            dict(type='vlm_dense.SuppressLabels', classes=[1]),
            dict(type='RandomResize', scale=(64, 48), ratio_range=(1.5, 1.5), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(72, 72), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=1.0),
            dict(type='RandomRotate', prob=1.0, degree=5),
            dict(type='PackSegInputs'),
        ]
    )
    labels = steps(results())['data_samples'].gt_sem_seg.data
    assert set(labels.unique().tolist()) <= {-1, 0, 2, 255} and (labels == -1).any()


@pytest.mark.parametrize('classes', [[], [-1], [255]])
def test_what_no_class_can_have_is_refused(classes):
    with pytest.raises(ConfigError, match='labels from 0 to 254'):
        SuppressLabels(classes)
