"""COCO panoptic on files of two small images: targets, the metric, a model's segments, and files that do not match."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import coco_panoptic_metric
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from segmentation.open_models import fc_clip

from vlm_dense.detection import CocoPanopticDataset, CocoPanopticMetric, panoptic
from vlm_dense.errors import DataError

CATEGORIES = [
    dict(id=1, name='dog', isthing=1, color=[1, 2, 3]),
    dict(id=4, name='cat', isthing=1, color=[4, 5, 6]),
    dict(id=9, name='grass', isthing=0, color=[7, 8, 9]),
]
IDS = np.zeros((32, 32), np.int64)
IDS[:10, :10], IDS[:10, 16:26], IDS[20:] = 70_000, 300, 5  # two dogs and grass
SEGMENTS = {70_000: 1, 300: 1, 5: 9}


def write(folder, ids=IDS, segments=SEGMENTS, size=(32, 32)):
    (folder / 'images').mkdir(exist_ok=True)
    (folder / 'panoptic').mkdir(exist_ok=True)
    images, annotations = [], []
    for i in (1, 2):
        Image.fromarray(np.full((*size, 3), 9 * i, np.uint8)).save(folder / 'images' / f'{i}.jpg')
        Image.fromarray(panoptic.id2rgb(ids)).save(folder / 'panoptic' / f'{i}.png')
        images.append(dict(id=i, file_name=f'{i}.jpg', height=size[0], width=size[1]))
        infos = []
        for number, category in segments.items():
            rows, columns = np.nonzero(ids == number)
            box = [0, 0, 2, 2]
            if len(rows):
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            area = max(len(rows), 1)
            infos.append(dict(id=number, category_id=category, iscrowd=0, area=area, bbox=list(map(int, box))))
        annotations.append(dict(image_id=i, file_name=f'{i}.png', segments_info=infos))
    content = dict(images=images, annotations=annotations, categories=CATEGORIES)
    (folder / 'panoptic.json').write_text(json.dumps(content))


def dataset(folder):
    init_default_scope('mmdet')
    return CocoPanopticDataset(
        data_root=str(folder),
        ann_file='panoptic.json',
        data_prefix=dict(img='images/', seg='panoptic/'),
        metainfo=dict(classes=('dog', 'cat', 'grass'), thing_classes=('dog', 'cat'), stuff_classes=('grass',)),
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='vlm_dense.LoadPanopticAnnotations'),
            dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape')),
        ],
    )


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    return tmp_path


def metric(folder):
    found = CocoPanopticMetric(
        ann_file=str(folder / 'panoptic.json'), seg_prefix=str(folder / 'panoptic'), nproc=1, outfile_prefix=None
    )
    found.dataset_meta = dataset(folder).metainfo
    return found


def evaluated(folder, segments):
    """Metrics of maps (H, W) of class + 1000 * number, one an image."""
    own = metric(folder)
    for i, one in enumerate(segments, start=1):
        sample = dict(
            img_id=i, pred_panoptic_seg=dict(sem_seg=one.clone()[None]), img_path=f'{i}.jpg', ori_shape=(32, 32)
        )
        own.process({}, [sample])
    return own.evaluate(2)


def test_ids_survive_their_colours():
    ids = np.array([[0, 255, 256], [65_536, 70_000, 256**3 - 1]])
    assert np.array_equal(panoptic.rgb2id(panoptic.id2rgb(ids)), ids)


def test_targets_are_things_one_by_one_and_a_map_of_stuff(folder):
    sample = dataset(folder)[0]['data_samples']
    head = fc_clip(['dog', 'cat', 'grass'], head=dict(num_things=2)).decode_head
    target = head.targets_of(sample, torch.device('cpu'))
    assert target.labels.tolist() == [0, 0, 2]
    assert target.masks.flatten(1).sum(1).tolist() == [100, 100, 12 * 32]


def test_the_metric_needs_no_other_package_and_counts_as_defined(folder):
    assert coco_panoptic_metric.panopticapi is None or hasattr(coco_panoptic_metric.panopticapi, '__file__')
    right = torch.full((32, 32), 3)  # nothing
    right[:10, :10], right[:10, 16:26], right[20:] = 1000, 2000, 2
    found = evaluated(folder, [right, right])
    assert found['coco_panoptic/PQ'] == pytest.approx(100)
    wrong = right.clone()
    wrong[:10, 16:26] = 3  # a dog missed
    wrong[20:, :8] = 3  # three quarters of the grass
    found = evaluated(folder, [right, wrong])
    dogs, grass = 3 / (3 + 0.5), (1 + 0.75) / 2
    assert found['coco_panoptic/PQ_th'] == pytest.approx(100 * dogs)
    assert found['coco_panoptic/PQ_st'] == pytest.approx(100 * grass)
    assert found['coco_panoptic/PQ'] == pytest.approx(100 * (dogs + grass) / 2)


def test_a_model_trains_on_them_and_its_segments_are_counted(folder):
    data = dataset(folder)
    model = fc_clip(['dog', 'cat', 'grass'], head=dict(num_things=2), panoptic=dict(things=2, iou_thr=0.0))
    images = torch.stack([data[i]['inputs'] for i in range(2)]).float() / 255
    samples = [data[i]['data_samples'] for i in range(2)]
    losses = model.train().loss(images, samples)
    assert all(torch.isfinite(value).all() for value in losses.values())
    with torch.no_grad():
        found = model.eval().predict(images, samples)
    own = metric(folder)
    own.process({}, [sample.to_dict() for sample in found])
    assert 0 <= own.evaluate(2)['coco_panoptic/PQ'] <= 100


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(segments={**SEGMENTS, 77: 4}), r'1.png: 1 segments of the annotation file are not in the PNG, as 77'),
        (dict(segments={5: 9}), r'1.png: 2 segments of the PNG are not in the annotation file, as 300'),
        (dict(segments={**SEGMENTS, 5: 8}), 'segment 5 of 1.jpg has category_id 8, which is no class'),
        (dict(size=(32, 30)), r'1.png has 32x32 pixels, its image .*1.jpg 30x32'),
    ],
)
def test_files_that_do_not_match_are_told(tmp_path, change, message):
    write(tmp_path, **change)
    with pytest.raises(DataError, match=message):
        dataset(tmp_path)[0]


def test_segments_that_are_not_there_are_told(folder):
    (folder / 'panoptic' / '1.png').unlink()
    with pytest.raises(DataError, match=r'1.png, the segments of .*1.jpg, does not exist'):
        dataset(folder)[0]


def test_an_installed_panopticapi_is_used(monkeypatch):
    other = SimpleNamespace()
    monkeypatch.setattr(coco_panoptic_metric, 'panopticapi', other)
    monkeypatch.setattr(coco_panoptic_metric, 'PQStat', 'its own')
    panoptic.stand_in()
    assert coco_panoptic_metric.panopticapi is other and coco_panoptic_metric.PQStat == 'its own'


@pytest.mark.parametrize('name', ['coco_panoptic_lsj-1024', 'coco_panoptic_lsj-768'])
def test_the_pipelines_of_the_configs_run(folder, name):
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets' / f'{name}.py')
    init_default_scope('mmseg')  # that of all configs
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        own = dict(loader.dataset, data_root=str(folder), ann_file='panoptic.json', filter_cfg=None)
        own['data_prefix'] = dict(img='images/', seg='panoptic/')
        own['metainfo'] = dict(classes=('dog', 'cat', 'grass'), thing_classes=('dog', 'cat'), stuff_classes=('grass',))
        sample = DATASETS.build(own)[0]
        assert sample['inputs'].dim() == 3 and max(sample['inputs'].shape[1:]) <= 1536
        assert (
            sample['data_samples'].gt_sem_seg.sem_seg.shape[1:]
            == sample['data_samples'].gt_instances.masks.masks.shape[1:]
        )
