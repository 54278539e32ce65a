"""COCO-Object out of the label maps of COCO-Stuff."""

from __future__ import annotations

import numpy as np
from mmseg.datasets import COCOStuffDataset
from PIL import Image

from vlm_dense.datasets import COCOObjectDataset
from vlm_dense.vocabulary.class_names import as_class_names


def test_things_stay_and_all_else_is_background(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / 'images' / '1.jpg')
    labels = np.array([[0, 79, 80], [170, 255, 7]], np.uint8)
    Image.fromarray(labels).save(tmp_path / 'labels' / '1_labelTrainIds.png')
    dataset = COCOObjectDataset(
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[dict(type='mmseg.LoadAnnotations'), dict(type='vlm_dense.ObjectLabels')],
    )
    found = dataset[0]['gt_seg_map']
    assert found.dtype == np.uint8 and found.tolist() == [[1, 80, 0], [0, 0, 8]]


def test_its_classes_are_the_background_and_the_things_of_coco():
    classes = COCOObjectDataset.METAINFO['classes']
    assert len(classes) == len(COCOObjectDataset.METAINFO['palette']) == 81
    assert classes[1:] == tuple(COCOStuffDataset.METAINFO['classes'][:80])
    names = as_class_names('coco-object81')
    assert len(names) == 81 and names[0][0] == 'background' and names[1][0] == 'person' and names[80][0] == 'toothbrush'
