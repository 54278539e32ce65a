"""COCO files: what Shapes writes, what a data set refuses, what the metric counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as PlainCocoMetric
from mmdet.structures import DetDataSample
from mmengine.registry import DATASETS, METRICS
from mmengine.structures import InstanceData

from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.detection import coco
from vlm_dense.errors import ClassNamesError, DataError

SCENES = dict(num_scenes=6, split='val', size=64, num_objects=(2, 4))
META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


pytestmark = pytest.mark.usefixtures('mmdet_scope')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six scenes as a COCO data set."""
    path = tmp_path_factory.mktemp('coco')
    ShapesDataset(**SCENES).write_coco(path)
    return path


def changed(folder, tmp_path, change):
    """The annotations with ``change`` applied to their content; images stay where they are."""
    content = json.loads((folder / 'annotations.json').read_text())
    change(content)
    (tmp_path / 'annotations.json').write_text(json.dumps(content))
    return tmp_path / 'annotations.json'


def dataset(folder, ann_file=None, **kwargs):
    pipeline = [
        dict(type='vlm_dense.LoadImage'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=True),
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(0.01, 0.01), keep_empty=False),
        dict(type='PackDetInputs', meta_keys=META),
    ]
    cfg = dict(
        type='vlm_dense.CocoDataset',
        ann_file=str(ann_file or folder / 'annotations.json'),
        data_prefix=dict(img=str(folder / 'images')),
        metainfo=dict(classes=ShapesDataset(**SCENES).metainfo['classes']),
        pipeline=pipeline,
    )
    cfg.update(kwargs)
    return DATASETS.build(cfg)


def drawn():
    return list(ShapesDataset(**SCENES, pipeline=[DrawScene()]))


# --- what Shapes writes ---------------------------------------------------------------------------------------


def test_written_scenes_are_the_drawn_ones(folder):
    read = dataset(folder)
    assert len(read) == 6
    for packed, scene in zip(read, drawn(), strict=True):
        np.testing.assert_array_equal(packed['inputs'].permute(1, 2, 0).numpy(), scene['img'])
        truth = packed['data_samples'].gt_instances
        np.testing.assert_allclose(truth.bboxes.tensor.numpy(), scene['gt_bboxes'], atol=1e-4)
        np.testing.assert_array_equal(truth.labels.numpy(), scene['gt_bboxes_labels'])
        np.testing.assert_array_equal(truth.masks.masks, scene['gt_instance_masks'])


def test_areas_are_counted_and_ids_start_at_one(folder):
    content = json.loads((folder / 'annotations.json').read_text())
    masks = [m for scene in drawn() for m in scene['gt_instance_masks']]
    assert [a['area'] for a in content['annotations']] == [int(m.sum()) for m in masks]
    assert [a['id'] for a in content['annotations']] == list(range(1, len(masks) + 1))
    assert min(c['id'] for c in content['categories']) == min(i['id'] for i in content['images']) == 1


# --- metric ---------------------------------------------------------------------------------------------------


def guesses(shift=0.0, keep=1.0):
    """Samples with predictions near the truth, those of mmdet's test loop."""
    rng = np.random.RandomState(0)
    out = []
    for scene in ShapesDataset(**SCENES, pipeline=[DrawScene(detection=True)]):
        boxes = scene['gt_bboxes'].tensor + torch.from_numpy(rng.uniform(-shift, shift, (len(scene['instances']), 4)))
        chosen = torch.from_numpy(rng.uniform(size=len(boxes)) < keep)
        found = InstanceData(
            bboxes=boxes.float(),
            labels=torch.from_numpy(scene['gt_bboxes_labels']),
            scores=torch.from_numpy(rng.uniform(size=len(boxes))).float(),
            masks=torch.from_numpy(scene['gt_masks'].masks.astype(bool)),
        )[chosen]
        meta = dict(img_id=scene['img_id'], ori_shape=scene['ori_shape'], instances=scene['instances'])
        out.append(DetDataSample(metainfo=meta, pred_instances=found))
    return out


def score(metric, samples, shift_ids=0):
    """Evaluate; image ids of the written file start at 1."""
    metric.dataset_meta = ShapesDataset(**SCENES).metainfo
    for sample in samples:
        sample = sample.clone()
        sample.set_metainfo(dict(img_id=sample.img_id + shift_ids))
        metric.process({}, [sample.to_dict()])
    return metric.evaluate(len(samples))


def test_ground_truth_of_samples_and_of_the_file_give_one_precision(folder):
    kinds = ['bbox', 'segm']
    by_samples = METRICS.build(dict(type='vlm_dense.CocoMetric', metric=kinds))
    by_file = METRICS.build(dict(type='vlm_dense.CocoMetric', metric=kinds, ann_file=str(folder / 'annotations.json')))
    first = score(by_samples, guesses(3.0, 0.8))
    second = score(by_file, guesses(3.0, 0.8), shift_ids=1)
    for key in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/segm_mAP'):
        assert first[key] == second[key]
    assert 0 < first['coco/bbox_mAP'] < first['coco/segm_mAP'] < 1


def test_the_truth_has_precision_one_and_nothing_has_none():
    metric = dict(type='vlm_dense.CocoMetric', metric=['bbox', 'segm'])
    perfect = score(METRICS.build(metric), guesses())
    assert perfect['coco/bbox_mAP'] == perfect['coco/segm_mAP'] == 1
    nothing = score(METRICS.build(metric), guesses(keep=0.0))
    assert nothing['coco/bbox_mAP'] == nothing['coco/segm_mAP'] == 0


def test_a_part_of_the_images_is_counted_as_if_there_were_no_others(folder, tmp_path):
    chosen = [1, 4]

    def only_these(content):
        ids = [i + 1 for i in chosen]
        content['images'] = [i for i in content['images'] if i['id'] in ids]
        content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]

    part = changed(folder, tmp_path, only_these)
    samples = [guesses(3.0)[i] for i in chosen]
    whole_file = str(folder / 'annotations.json')
    ours = score(METRICS.build(dict(type='vlm_dense.CocoMetric', ann_file=whole_file)), samples, 1)
    wanted = score(PlainCocoMetric(ann_file=str(part)), samples, 1)
    assert ours == wanted and ours['coco/bbox_mAP'] > 0
    assert score(PlainCocoMetric(ann_file=whole_file), samples, 1)['coco/bbox_mAP'] < ours['coco/bbox_mAP']
    assert [x['data_samples'].img_id for x in dataset(folder, indices=chosen)] == [i + 1 for i in chosen]


def test_an_absent_file_of_the_evaluator_is_named(tmp_path):
    with pytest.raises(DataError, match='nowhere.json of the evaluator does not exist'):
        METRICS.build(dict(type='vlm_dense.CocoMetric', ann_file=str(tmp_path / 'nowhere.json')))


# --- bad input ------------------------------------------------------------------------------------------------


def test_a_category_that_is_no_class_is_left_out_and_the_log_says_so(folder, monkeypatch):
    classes = [n for n in ShapesDataset(**SCENES).metainfo['classes'] if n != 'star']
    stars = sum((scene['gt_bboxes_labels'] == 3).sum() for scene in drawn())
    said = []
    monkeypatch.setattr(coco, 'print_log', lambda text, **kwargs: said.append(text))
    read = dataset(folder, metainfo=dict(classes=classes))
    assert len(said) == 1 and f'of 1 categories that are no classes are left out: star ({stars})' in said[0]
    assert stars > 0
    for packed, scene in zip(read, drawn(), strict=True):
        names = [read.metainfo['classes'][i] for i in packed['data_samples'].gt_instances.labels]
        wanted = [ShapesDataset.METAINFO['classes'][i] for i in scene['gt_bboxes_labels']]
        assert names == [n for n in wanted if n != 'star']


def test_a_class_that_the_file_lacks_is_refused(folder):
    with pytest.raises(ClassNamesError, match="no category 'stra'.*Did you mean 'star'"):
        dataset(folder, metainfo=dict(classes=['circle', 'stra']))
    with pytest.raises(ClassNamesError, match="no category 'person'; 80 of the 80 classes.* --classes"):
        dataset(folder, metainfo=None)


def test_classes_in_another_order_than_the_file_are_refused(folder):
    with pytest.raises(ClassNamesError, match=r"expected \['circle', 'star'\], found \['star', 'circle'\]"):
        dataset(folder, metainfo=dict(classes=['star', 'circle']))


def test_an_unknown_category_id_is_named(folder, tmp_path):
    path = changed(folder, tmp_path, lambda c: c['annotations'][2].update(category_id=77))
    with pytest.raises(DataError, match='annotation 3 has category_id 77'):
        dataset(folder, path)


def test_images_that_do_not_exist_are_named(folder, tmp_path):
    path = changed(folder, tmp_path, lambda c: c['images'][1].update(file_name='lost.png'))
    with pytest.raises(DataError, match=r'names 6 images, of which 1 do not exist: .*lost\.png'):
        dataset(folder, path)


@pytest.mark.parametrize('text', ['[1, 2]', '{"images": []}', 'no json', '{"images": [{"id": 1}], "categories": []}'])
def test_a_file_that_is_no_coco_file_is_named(folder, tmp_path, text):
    (tmp_path / 'odd.json').write_text(text)
    with pytest.raises(DataError, match='odd.json'):
        dataset(folder, tmp_path / 'odd.json')


def test_nothing_left_to_train_on_is_said(folder):
    with pytest.raises(DataError, match='No image of .* is left'):
        dataset(folder, filter_cfg=dict(filter_empty_gt=True, min_size=1000))


def test_boxes_outside_the_image_and_without_area_do_not_reach_the_model(folder, tmp_path):
    odd = [[100, 10, 20, 20], [-50, -50, 30, 30], [10, 10, 0, 20], [10, 10, 20, 0], [5, 5, 0.4, 9]]
    partly = [-8, 50, 20, 30]

    def add(content):
        first = dict(content['annotations'][0])
        for i, bbox in enumerate([*odd, partly]):
            content['annotations'].append(dict(first, id=1000 + i, bbox=bbox))

    plain, more = dataset(folder)[0]['data_samples'], dataset(folder, changed(folder, tmp_path, add))[0]['data_samples']
    boxes = more.gt_instances.bboxes.tensor
    assert len(boxes) == len(plain.gt_instances) + 1
    assert boxes[-1].tolist() == [0, 50, 12, 64]  # cut at the border


def test_a_box_that_a_transform_pushes_out_is_dropped(folder):
    from mmdet.datasets.transforms import FilterAnnotations, Resize

    scene = ShapesDataset(**SCENES, pipeline=[DrawScene(detection=True)])[0]
    count = len(scene['gt_bboxes'])
    scene['gt_bboxes'].translate_((200, 0))
    out = FilterAnnotations(min_gt_bbox_wh=(0.01, 0.01), keep_empty=False)(Resize(scale=(64, 64))(scene))
    assert count > 0 and len(out['gt_bboxes']) == len(out['gt_masks']) == len(out['gt_bboxes_labels']) == 0
