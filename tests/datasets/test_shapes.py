"""The Shapes data set serves segmentation, detection and classification from one description."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from vlm_dense.datasets import DrawScene, ShapesDataset, shapes_metainfo
from vlm_dense.errors import ConfigError, DataError

DRAW = [dict(type='vlm_dense.DrawScene')]


def test_configs_find_it_without_custom_imports():
    dataset = DATASETS.build(dict(type='vlm_dense.ShapesDataset', num_scenes=3, pipeline=DRAW))
    assert len(dataset) == 3 and dataset[0]['img'].dtype == np.uint8


@pytest.mark.parametrize(('label', 'classes'), [('shape', 8), ('colour', 8), ('shape_colour', 64)])
@pytest.mark.parametrize('background', [False, True])
def test_label_map_agrees_with_objects(label, classes, background):
    dataset = ShapesDataset(20, label=label, background=background, num_objects=(2, 4), pipeline=DRAW)
    names = dataset.metainfo['classes']
    assert len(names) == len(dataset.metainfo['palette']) == classes + background
    for data in dataset:
        values = set(np.unique(data['gt_seg_map'])) - {0 if background else 255}
        assert values == set(data['gt_labels']) == set(data['gt_bboxes_labels'])
        for mask, index in zip(data['gt_instance_masks'], data['gt_bboxes_labels'], strict=True):
            assert (data['gt_seg_map'][mask > 0] == index).all()
            assert names[index] in data['caption'] or label != 'shape_colour'
            assert all(word in data['caption'] for word in names[index].split())


def test_base_and_new_halves_share_no_class_and_no_object():
    base, new = (ShapesDataset(40, classes=c, pipeline=DRAW) for c in ('base', 'new'))
    assert base.metainfo['classes'] + new.metainfo['classes'] == ShapesDataset.METAINFO['classes']
    shapes = [{int(s) for data in d for s in data['shape_ids']} for d in (base, new)]
    assert shapes == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_chosen_classes_set_the_label_order_and_what_is_drawn():
    by_argument = ShapesDataset(30, label='colour', classes=['blue', 'red'], pipeline=DRAW)
    by_metainfo = ShapesDataset(30, label='colour', metainfo=dict(classes=('blue', 'red')), pipeline=DRAW)
    assert by_argument.metainfo['classes'] == by_metainfo.metainfo['classes'] == ('blue', 'red')
    for a, b in zip(by_argument, by_metainfo, strict=True):
        np.testing.assert_array_equal(a['img'], b['img'])
        assert set(a['colour_ids']) <= {0, 5}
        assert ((a['colour_ids'] == 0) == (a['gt_bboxes_labels'] == 1)).all()


def test_held_out_classes_keep_their_labels_in_scenes_without_them():
    fewer = ShapesDataset(20, classes=['circle', 'ring'], background=True, num_objects=(2, 4), pipeline=DRAW)
    held_out = ShapesDataset.METAINFO['classes'][1:5] + ('crescent', 'heart')
    found = ShapesDataset(20, held_out=held_out, background=True, num_objects=(2, 4), pipeline=DRAW)
    assert found.metainfo['classes'] == ('background', *ShapesDataset.METAINFO['classes'])
    ring = found.metainfo['classes'].index('ring')
    for a, b in zip(fewer, found, strict=True):
        np.testing.assert_array_equal(a['img'], b['img'])
        np.testing.assert_array_equal(np.where(a['gt_seg_map'] == 2, ring, a['gt_seg_map']), b['gt_seg_map'])


def test_taxonomy_covers_every_class_once():
    for label in ('shape', 'colour', 'shape_colour'):
        meta = shapes_metainfo(label, background=True)
        members = [name for group in meta['taxonomy'].values() for name in group]
        assert sorted(members) == sorted(meta['classes'][1:])
    assert shapes_metainfo('shape_colour')['attributes']['red circle'] == ('circle', 'round', 'red', 'warm')


def test_splits_and_seeds_hold_different_scenes_and_domains_the_same():
    def first(**kwargs):
        return ShapesDataset(1, pipeline=DRAW, **kwargs)[0]

    images = [first(**k)['img'] for k in (dict(), dict(split='val'), dict(split='test'), dict(seed=1))]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])
    np.testing.assert_array_equal(first()['gt_seg_map'], first(domain='sketch')['gt_seg_map'])


def test_worker_count_does_not_change_a_pixel():
    def packed(results):
        return torch.from_numpy(results['img'])

    dataset = ShapesDataset(8, pipeline=[DrawScene(), packed])
    loaders = [DataLoader(dataset, batch_size=4, num_workers=n, collate_fn=default_collate) for n in (0, 2)]
    for alone, shared in zip(*loaders, strict=True):
        assert torch.equal(alone, shared)


def test_classification_gets_one_label_or_a_set():
    single = ShapesDataset(10, num_objects=(1, 1), background=True, pipeline=DRAW)
    for data in single:
        assert single.metainfo['classes'][data['gt_label']] in data['caption']
    several = ShapesDataset(10, num_objects=(3, 3), pipeline=DRAW)
    assert 'gt_label' not in several.get_data_info(0)
    several = several[0]
    assert 'gt_label' not in several and (np.diff(several['gt_labels']) > 0).all()


@pytest.mark.parametrize('classes', ['all', 'new'])
def test_a_single_label_is_known_before_the_scene_is_drawn(classes):
    single = ShapesDataset(60, num_objects=(1, 1), label='shape_colour', classes=classes, size=16, pipeline=DRAW)
    drawn = [int(data['gt_label']) for data in single]
    assert [single.get_data_info(i)['gt_label'] for i in range(60)] == drawn and len(set(drawn)) > 15


def test_mmseg_packs_and_flips_it():
    pytest.importorskip('mmseg')
    from mmseg.registry import DATASETS as MMSEG

    pipeline = [*DRAW, dict(type='mmseg.RandomFlip', prob=1.0), dict(type='mmseg.PackSegInputs')]
    config = dict(type='vlm_dense.ShapesDataset', num_scenes=2, size=(48, 64), background=True)
    flipped = MMSEG.build(dict(**config, pipeline=pipeline))[1]
    plain = MMSEG.build(dict(**config, pipeline=DRAW))[1]
    np.testing.assert_array_equal(flipped['data_samples'].gt_sem_seg.data[0].numpy(), plain['gt_seg_map'][:, ::-1])
    np.testing.assert_array_equal(flipped['inputs'].numpy(), plain['img'][:, ::-1].transpose(2, 0, 1))
    assert flipped['data_samples'].img_shape == flipped['data_samples'].ori_shape == (48, 64)


def test_mmdet_packs_and_flips_boxes_and_masks():
    from mmdet.datasets.transforms import PackDetInputs, RandomFlip

    pipeline = [DrawScene(detection=True), RandomFlip(prob=1.0), PackDetInputs()]
    packed = ShapesDataset(4, num_objects=(2, 3), pipeline=pipeline)[0]['data_samples']
    plain = ShapesDataset(4, num_objects=(2, 3), pipeline=DRAW)[0]
    np.testing.assert_array_equal(packed.gt_instances.masks.masks, plain['gt_instance_masks'][:, :, ::-1])
    expected = plain['gt_bboxes'][:, [2, 1, 0, 3]]
    expected[:, [0, 2]] = 64 - expected[:, [0, 2]]
    np.testing.assert_array_equal(packed.gt_instances.bboxes.tensor.numpy(), expected)
    np.testing.assert_array_equal(packed.gt_instances.labels.numpy(), plain['gt_bboxes_labels'])


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(num_scenes=0), DataError, 'num_scenes is 0'),
        (dict(split='valid'), ConfigError, "Did you mean 'val'"),
        (dict(label='color'), ConfigError, "Did you mean 'colour'"),
        (dict(domain='sketches'), ConfigError, "Did you mean 'sketch'"),
        (dict(classes=['circel']), ConfigError, "Did you mean 'circle'"),
        (dict(classes='novel'), ConfigError, 'class splits'),
        (dict(classes=['ring', 'ring']), ConfigError, 'different names'),
        (dict(held_out=['hart']), ConfigError, "Did you mean 'heart'"),
        (dict(size=8), ConfigError, 'at least 16 px'),
        (dict(size=(64, 64, 3)), ConfigError, 'height, width'),
        (dict(num_objects=(5, 2)), ConfigError, 'least, greatest'),
    ],
)
def test_bad_arguments_are_named_at_once(kwargs, error, message):
    with pytest.raises(error, match=message):
        ShapesDataset(**kwargs)


def test_the_first_use_prints_nothing():
    code = 'from vlm_dense.datasets import ShapesDataset as S; S(1, pipeline=[dict(type="vlm_dense.DrawScene")])[0]'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
