"""Masks of more labels than 8 bits hold: their names, labels above 255, and what cannot be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from PIL import Image

from vlm_dense.datasets import ADE847Dataset, PascalContext459Dataset
from vlm_dense.datasets.config_checks import check_data, class_names
from vlm_dense.errors import ClassNamesError, DataError

ROOT = Path(__file__).parents[2]
PIPELINE = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.LoadWideMask'),
    dict(type='vlm_dense.CheckSeg', num_classes=847, ignore_index=65535),
    dict(type='mmseg.PackSegInputs'),
]
NAMES = [f'{i}: thing {i}' for i in range(1, 460)]


@pytest.fixture
def folder(tmp_path):
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / 'images' / 'a.jpg')
    write(tmp_path, [[0, 255, 846], [300, 65535, 256]])
    (tmp_path / 'classes.txt').write_text('\n'.join(f'thing {i}, other {i}' for i in range(847)))
    (tmp_path / 'labels.txt').write_text('\n'.join(NAMES))
    return tmp_path


def write(folder, labels) -> None:
    Image.fromarray(np.array(labels, np.uint16)).save(folder / 'labels' / 'a.tif')


def dataset(folder, kind=ADE847Dataset):
    init_default_scope('mmseg')
    places = dict(img_path='images', seg_map_path='labels')
    return kind(data_root=str(folder), data_prefix=places, pipeline=PIPELINE)


def test_labels_above_255_stay_and_only_65535_is_ignored(folder):
    data = dataset(folder)
    truth = data[0]['data_samples'].gt_sem_seg.data
    assert truth.tolist() == [[[0, 255, 846], [300, 65535, 256]]]
    metric = IoUMetric(ignore_index=65535)
    metric.dataset_meta = data.metainfo
    guess = SegDataSample(
        gt_sem_seg=PixelData(data=truth),
        pred_sem_seg=PixelData(data=torch.tensor([[[0, 255, 846], [300, 7, 0]]])),
    )
    metric.process({}, [guess.to_dict()])
    assert metric.evaluate(1)['aAcc'] == pytest.approx(80)


def test_names_come_from_the_data_and_no_two_classes_have_the_same(folder):
    assert dataset(folder).metainfo['classes'][846] == 'thing 846'
    found = dataset(folder, PascalContext459Dataset).metainfo
    assert found['classes'][0] == 'thing 1' and len(found['classes']) == len(found['palette']) == 459
    (folder / 'classes.txt').write_text('flag, banner\nflag, ensign\n' + '\n'.join(map(str, range(845))))
    assert dataset(folder).metainfo['classes'][:2] == ('flag', 'ensign')
    (folder / 'classes.txt').write_text('flag\nFlag\n' + '\n'.join(map(str, range(845))))
    with pytest.raises(ClassNamesError, match="class 1 has no name of its own, 'Flag' is also class 0"):
        dataset(folder)


def test_names_that_are_not_there_or_too_few_are_told(folder):
    (folder / 'classes.txt').write_text('wall\n')
    with pytest.raises(ClassNamesError, match='names 1 classes, but ADE847Dataset has 847'):
        dataset(folder)
    (folder / 'labels.txt').unlink()
    with pytest.raises(ClassNamesError, match=r'expected 459 lines in .*labels.txt, which does not exist. Copy the'):
        dataset(folder, PascalContext459Dataset)


def test_a_label_of_no_class_and_a_mask_in_floating_point_are_told(folder):
    write(folder, [[0, 1, 847], [0, 0, 0]])
    with pytest.raises(DataError, match=r'a.tif holds the label 847 in 1 pixels. Expected 0 to 846, or 65535'):
        dataset(folder)[0]
    Image.fromarray(np.zeros((2, 3), np.float32)).save(folder / 'labels' / 'a.tif')
    with pytest.raises(DataError, match='floating-point'):
        dataset(folder)[0]


@pytest.mark.parametrize(('name', 'number'), [('ade847', 847), ('context459', 459)])
def test_the_configs_say_what_is_missing_and_where(name, number, folder, monkeypatch):
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'datasets' / f'{name}.py')
    assert cfg.test_evaluator.ignore_index == 65535
    with pytest.raises(DataError, match=r'MISSING .*\.tif'):
        check_data(cfg)
    own = cfg.test_dataloader.dataset
    own.update(data_root=str(folder), data_prefix=dict(img_path='images', seg_map_path='labels'))
    check_data(cfg)
    assert len(class_names(cfg)) == number
    (folder / 'labels' / 'a.tif').unlink()
    with pytest.raises(DataError, match='Every image needs a mask of the same name ending in .tif'):
        check_data(cfg)
