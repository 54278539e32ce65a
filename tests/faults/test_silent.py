"""What went wrong without a word: each is told, or right now."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from engine.toy import write_config, write_data
from faults.hostile import PHOTO, write
from faults.test_bad_inputs import refused
from mmengine.registry import DATASETS
from PIL import Image
from torch import nn

from vlm_dense.cli import segment, train
from vlm_dense.datasets.custom import ClassFolderDataset
from vlm_dense.detection.coco import CocoFileDataset, CocoMetric
from vlm_dense.engine.checkpoints.fit import CheckpointFitHook
from vlm_dense.errors import CheckpointError, ClassNamesError, DataError
from vlm_dense.inference.images import image_list, load_image
from vlm_dense.vocabulary.class_names import as_class_names, check_names


def test_an_image_of_sixteen_bits_is_the_same_from_a_file_and_from_memory(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (20, 24)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as opened:
        [given] = image_list([opened])
    assert np.array_equal(given, load_image(str(tmp_path / 'a.png')))


def test_an_image_of_memory_that_cannot_be_read_is_told():
    closed = Image.new('RGB', (4, 4))
    closed.close()
    for image in (closed, Image.fromarray(np.full((4, 4), 0.5, np.float32))):
        with pytest.raises(DataError):
            image_list([image])


def folders(root, *names):
    for name in names:
        for i in range(5):
            write(root / name / f'{i}.png', PHOTO)
    return str(root)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (('train/a_b', 'train/a b', 'val/a_b', 'val/a b'), 'are one class'),
        (('train/a', 'train/b'), 'without a folder val'),
        (('val/a', 'val/b'), 'without a folder train'),
        (('train/a', 'val/a', 'val/b'), "has 1 classes that .* has not, as 'b'"),
    ],
)
def test_class_folders_that_would_be_left_out_are_told(names, expected, tmp_path):
    with pytest.raises((DataError, ClassNamesError), match=expected):
        ClassFolderDataset(folders(tmp_path, *names), lazy_init=True)


def test_fewer_names_than_the_data_have_are_refused(tmp_path, capsys):
    path = str(train.__file__).replace('vlm_dense/cli/train.py', 'configs/maskclip/maskclip_tiny-vit_shapes.py')
    from vlm_dense.cli import test as test_tool

    words = ['--cfg-options', 'model.class_names=[circle,star]', '--work-dir', tmp_path]
    refused(capsys, 'model.class_names are 2 of the', test_tool.main, path, *words)


def coco(root, change=lambda content: None, boxes=((1, 1, 10, 10),)):
    for i in range(2):
        write(root / 'images' / f'{i}.png', PHOTO)
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=48, height=40) for i in range(2)],
        categories=[dict(id=1, name='a')],
        annotations=[
            dict(id=i, image_id=i % 2, category_id=1, bbox=list(box), area=100, iscrowd=0)
            for i, box in enumerate(boxes)
        ],
    )
    change(content)
    for split in ('train', 'val'):
        (root / f'{split}.json').write_text(json.dumps(content))
    return str(root)


def test_boxes_without_area_have_that_of_their_sides(tmp_path):
    root = coco(tmp_path, lambda content: content['annotations'][0].pop('area'))
    data = CocoFileDataset(root, pipeline=[])
    assert len(data.get_data_info(0)['instances']) == 1
    assert CocoMetric(f'{root}/val.json')._coco_api.dataset['annotations'][0]['area'] == 100


COCO = [
    (lambda c: c['images'][1].update(id=0), 'ids of images are there more than once'),
    (lambda c: c['annotations'].append(dict(c['annotations'][0])), 'ids of annotations are there more than once'),
    (lambda c: c['categories'].append(dict(id=2, name='a')), 'need names, each once'),
    (lambda c: c['categories'].append(dict(id=2, name='')), 'need names, each once'),
    (lambda c: c['annotations'][0].update(area='big'), "has the area 'big'"),
    (lambda c: c.pop('annotations'), 'expected annotations to be a list'),
    (lambda c: c.update(annotations=5), 'COCO'),
    (lambda c: c.update(images=None), 'COCO|expected images'),
    (lambda c: c['annotations'][0].pop('image_id'), 'COCO'),
]


@pytest.mark.parametrize(('change', 'expected'), COCO)
def test_a_coco_file_that_would_be_read_otherwise_is_told(change, expected, tmp_path):
    with pytest.raises((DataError, ClassNamesError), match=expected):
        DATASETS.build(dict(type='vlm_dense.CocoFileDataset', data_root=coco(tmp_path, change), pipeline=[]))


def test_boxes_that_are_two_corners_are_told(tmp_path):
    root = coco(tmp_path, boxes=((30, 20, 47, 39), (20, 20, 40, 38)))
    with pytest.raises(DataError, match='x1, y1, x2, y2'):
        CocoFileDataset(root, pipeline=[])


def test_a_deeply_nested_file_is_told(tmp_path):
    root = coco(tmp_path)
    (tmp_path / 'train.json').write_text('[' * 100_000)
    with pytest.raises(DataError, match='cannot be read as COCO'):
        CocoFileDataset(root, pipeline=[])


def test_a_mark_of_byte_order_is_no_letter_and_control_letters_are_refused(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfsky\nroad\n')
    assert as_class_names(str(tmp_path / 'a.txt')) == (('sky',), ('road',))
    for name in ('a\0b', 'a\x1b[0m', '\u202eabc'):
        with pytest.raises(ClassNamesError, match='cannot be printed'):
            check_names([name, 'b'])


def test_negative_variances_are_no_weights():
    model = nn.BatchNorm2d(2)
    weights = dict(model.state_dict(), running_var=torch.tensor([1.0, -1.0]))
    runner = type('Runner', (), dict(model=model))()
    with pytest.raises(CheckpointError, match='negative variances'):
        CheckpointFitHook().after_load_checkpoint(runner, dict(meta={}, state_dict=weights))


@pytest.mark.parametrize('place', ['fifo.png', '/dev/zero'])
def test_what_is_no_file_is_not_read_without_end(place, tmp_path, capsys):
    path = tmp_path / place
    if not path.exists():
        os.mkfifo(path)
    refused(capsys, 'is no file', segment.main, path, '--classes', 'circle', 'star', '--out', tmp_path / 'out')


@pytest.mark.parametrize('variable', ['RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_PORT'])
def test_a_variable_of_a_launcher_that_is_no_number_is_named(variable, tmp_path, capsys, monkeypatch):
    config = write_config(tmp_path, write_data(tmp_path / 'data', train=2, val=2))
    values = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_PORT='29511', MASTER_ADDR='127.0.0.1')
    for name, value in {**values, variable: 'x'}.items():
        monkeypatch.setenv(name, value)
    words = ['--launcher', 'pytorch', '--work-dir', tmp_path / 'work']
    refused(capsys, f'{variable} must be a number', train.main, config, *words)


@pytest.mark.parametrize('names', [{'sky', 'road'}, frozenset({'sky'}), dict(sky=0, road=1)])
def test_class_names_without_order_are_refused(names):
    for check in (check_names, as_class_names):
        with pytest.raises(ClassNamesError, match='a list in label order, found a'):
            check(names)
