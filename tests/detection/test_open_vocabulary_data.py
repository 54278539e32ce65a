"""OV-COCO and OV-LVIS: which boxes are trained on, in which numbering, and metrics that equal mmdet's own."""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import LVISMetric, OVCocoMetric
from mmengine.registry import DATASETS, METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vlm_dense.detection import OVCocoDataset, OVLVISDataset
from vlm_dense.detection import open_vocabulary_data as ov
from vlm_dense.errors import ClassNamesError, ConfigError, DataError, MissingLibraryError

BASE_IDS = '1 2 3 4 7 8 9 15 16 19 20 23 24 25 27 31 33 34 35 38 42 44 48 50 51 52 53 54 55 56 57 59 60 62 65 70 72 73 '
BASE_IDS = [int(i) for i in (BASE_IDS + '74 75 78 79 80 82 84 85 86 90').split()]
NOVEL_IDS = [5, 6, 17, 18, 21, 22, 28, 32, 36, 41, 47, 49, 61, 63, 76, 81, 87]
ALL_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
COCO_NAMES = dict(zip(ALL_IDS, CocoDataset.METAINFO['classes'], strict=True))


pytestmark = pytest.mark.usefixtures('mmdet_scope')


def write(folder, ids, boxes, number=4, **further) -> str:
    """A COCO file of images of 100 px with (image, category id, x, y, w, h); gives its path."""
    images = [dict(id=i, file_name=f'{i}.jpg', height=100, width=100, **further) for i in range(number)]
    for image in images:
        (folder / image['file_name']).touch()
    annotations = [
        dict(id=k + 1, image_id=i, category_id=c, bbox=list(b), area=b[2] * b[3], iscrowd=0)
        for k, (i, c, *b) in enumerate(boxes)
    ]
    content = dict(images=images, annotations=annotations, categories=[dict(id=i, name=COCO_NAMES[i]) for i in ids])
    path = folder / f'instances_{len(ids)}.json'
    path.write_text(json.dumps(content))
    return str(path)


TRAIN, CAT, BANANA, HAIR_DRIER = 7, 17, 52, 89
BOXES = [(0, TRAIN, 0, 0, 50, 50), (0, CAT, 5, 5, 40, 40), (1, CAT, 0, 0, 30, 30), (2, BANANA, 9, 9, 50, 20)]
BOXES += [(3, HAIR_DRIER, 0, 0, 20, 20)]


def dataset(path, folder, **kwargs):
    filter_cfg = dict(filter_empty_gt=True, min_size=32)
    cfg = dict(type='vlm_dense.OVCocoDataset', ann_file=path, data_prefix=dict(img=str(folder)), filter_cfg=filter_cfg)
    return DATASETS.build(dict(cfg, pipeline=[], **kwargs))


def test_the_classes_are_those_of_the_protocol_in_the_order_of_cocos_ids():
    meta = OVCocoDataset.METAINFO
    assert list(meta['classes']) == [COCO_NAMES[i] for i in sorted(BASE_IDS + NOVEL_IDS)]
    assert list(meta['base_classes']) == [COCO_NAMES[i] for i in BASE_IDS]
    assert list(meta['novel_classes']) == [COCO_NAMES[i] for i in NOVEL_IDS]
    lvis = OVLVISDataset.METAINFO
    assert [len(lvis[k]) for k in ('classes', 'base_classes', 'novel_classes')] == [1203, 866, 337]
    assert 'applesauce' in lvis['novel_classes'] and 'aerosol_can' in lvis['base_classes']


@pytest.mark.parametrize('ids', [ALL_IDS, sorted(BASE_IDS + NOVEL_IDS)], ids=['80 categories', '65 categories'])
def test_training_has_base_boxes_only_with_labels_among_all_65(tmp_path, ids):
    boxes = [box for box in BOXES if box[1] in ids]
    path = write(tmp_path, ids, boxes)
    names = OVCocoDataset.METAINFO['classes']
    train, test = dataset(path, tmp_path), dataset(path, tmp_path, test_mode=True)
    assert [[names[o['bbox_label']] for o in info['instances']] for info in train] == [['train'], ['banana']]
    assert [[names[o['bbox_label']] for o in info['instances']] for info in test] == [
        ['train', 'cat'],
        ['cat'],
        ['banana'],
        [],
    ]
    assert train[0]['instances'][0]['bbox_label'] == 6


def test_a_file_of_48_categories_is_refused_where_mmdet_learns_wrong_names(tmp_path):
    path = write(tmp_path, BASE_IDS, [box for box in BOXES if box[1] in BASE_IDS])
    plain = CocoDataset(ann_file=path, data_prefix=dict(img=''), metainfo=OVCocoDataset.METAINFO, pipeline=[])
    assert plain[0]['instances'][0]['bbox_label'] == 4  # 'train' is class 6
    with pytest.raises(ClassNamesError, match='coco2ovd.py .*/instances_train2017.json'):
        dataset(path, tmp_path)


def test_a_file_without_a_base_box_is_refused(tmp_path):
    with pytest.raises(DataError, match='has a box of a base class'):
        dataset(write(tmp_path, ALL_IDS, [(1, CAT, 0, 0, 30, 30)]), tmp_path)


def predictions(boxes, labels_of, seed=0) -> list[dict]:
    """Outputs for four images: shaken ground truth, some with a wrong name, and boxes of nothing."""
    rng, found = np.random.RandomState(seed), []
    for i in range(4):
        own = [(c, b) for image, c, *b in boxes if image == i and c in labels_of]
        rows = [
            (labels_of[c], np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]]) + rng.uniform(-12, 12, 4)) for c, b in own
        ]
        rows += [(int(rng.randint(len(labels_of))), row[1]) for row in rows]
        rows += [(int(rng.randint(len(labels_of))), np.array([60.0, 60, 90, 95]))]
        instances = dict(
            bboxes=torch.tensor(np.array([b for _, b in rows])),
            labels=torch.tensor([k for k, _ in rows]),
            scores=torch.tensor(rng.uniform(0.1, 1, len(rows))),
        )
        found.append(dict(img_id=i, ori_shape=(100, 100), pred_instances=instances))
    return found


def evaluate(metric, meta, samples) -> dict[str, float]:
    metric.dataset_meta = meta
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_the_metric_equals_mmdets_and_a_mean_of_pycocotools(tmp_path):
    ids = sorted(BASE_IDS + NOVEL_IDS)
    boxes = [(i, c, 5 + 3 * i, 4, 30 + 2 * k, 40) for i in range(4) for k, c in enumerate((TRAIN, CAT, BANANA, 18, 1))]
    path, meta = write(tmp_path, ids, boxes), OVCocoDataset.METAINFO
    samples = predictions(boxes, {i: k for k, i in enumerate(ids)})
    ours = evaluate(METRICS.build(dict(type='vlm_dense.OVCocoMetric', ann_file=path)), meta, samples)
    theirs = evaluate(OVCocoMetric(ann_file=path), meta, samples)
    assert ours == theirs and 0 < ours['coco/novel_ap50'] < 1 and ours['coco/novel_ap50'] != ours['coco/base_ap50']

    truth = COCO(path)
    rows = [
        dict(image_id=s['img_id'], category_id=ids[k], bbox=[x1, y1, x2 - x1, y2 - y1], score=score)
        for s in samples
        for (x1, y1, x2, y2), k, score in zip(
            *(s['pred_instances'][key].tolist() for key in ('bboxes', 'labels', 'scores')), strict=True
        )
    ]
    run = COCOeval(truth, truth.loadRes(rows), 'bbox')
    run.params.catIds = ids
    run.evaluate()
    run.accumulate()
    ap50 = run.eval['precision'][0, :, :, 0, -1]  # (recall, classes)
    for name, part in (('base', BASE_IDS), ('novel', NOVEL_IDS)):
        own = ap50[:, [ids.index(i) for i in part]]
        assert own[own > -1].mean() == pytest.approx(ours[f'coco/{name}_ap50'])
    assert ap50[ap50 > -1].mean() == pytest.approx(ours['coco/bbox_mAP_50'], abs=6e-4)


def test_nothing_found_is_zero_and_a_data_set_without_the_split_is_told(tmp_path):
    ids, meta = sorted(BASE_IDS + NOVEL_IDS), OVCocoDataset.METAINFO
    path = write(tmp_path, ids, BOXES[:4])
    empty = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0))
    samples = [dict(img_id=i, ori_shape=(100, 100), pred_instances=empty) for i in range(4)]
    cfg = dict(type='vlm_dense.OVCocoMetric', ann_file=path)
    found = evaluate(METRICS.build(cfg), meta, samples)
    assert found['coco/novel_ap50'] == found['coco/base_ap50'] == found['coco/bbox_mAP'] == 0
    with pytest.raises(ConfigError, match='no base_classes and no novel_classes'):
        evaluate(METRICS.build(cfg), dict(classes=meta['classes']), samples)


def test_without_the_package_lvis_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ov, 'find_spec', lambda name: None)
    data = dict(type='vlm_dense.OVLVISDataset', ann_file='absent.json', pipeline=[])
    for build in (lambda: METRICS.build(dict(type='vlm_dense.LVISMetric')), lambda: DATASETS.build(data)):
        with pytest.raises(MissingLibraryError, match="extra lvis: pip install '.\\[lvis\\]'"):
            build()


def lvis_file(folder) -> tuple[str, list[tuple]]:
    """An LVIS v1 file of four images with boxes of a rare, a common and a frequent class; gives its boxes too."""
    names = OVLVISDataset.METAINFO['classes']
    rare, common, frequent = (names.index(n) + 1 for n in ('applesauce', 'aerosol_can', 'banana'))
    kinds = {rare: 'r', common: 'c', frequent: 'f'}
    boxes = [(i, c, 5 + 9 * k, 4, 30 + 2 * k, 40) for i in range(4) for k, c in enumerate(kinds)]
    boxes = [box for box in boxes if box[:2] not in ((1, common), (1, frequent))]
    url = 'http://images.cocodataset.org/val2017'
    segment = dict(segmentation=[[0, 0, 9, 0, 9, 9]])
    content = dict(
        images=[
            dict(
                id=i,
                coco_url=f'{url}/{i}.jpg',
                height=100,
                width=100,
                neg_category_ids=[],
                not_exhaustive_category_ids=[],
            )
            for i in range(4)
        ],
        annotations=[
            dict(id=k + 1, image_id=i, category_id=c, bbox=list(b), area=b[2] * b[3], **segment)
            for k, (i, c, *b) in enumerate(boxes)
        ],
        categories=[dict(id=i + 1, name=name, frequency=kinds.get(i + 1, 'f')) for i, name in enumerate(names)],
    )
    path = folder / 'lvis.json'
    path.write_text(json.dumps(content))
    return str(path), boxes


def test_lvis_without_rare_boxes_in_training_and_with_mmdets_metric(tmp_path):
    path, boxes = lvis_file(tmp_path)
    known = find_spec('lvis') is not None
    with nullcontext() if known else pytest.raises(MissingLibraryError):
        cfg = dict(type='vlm_dense.OVLVISDataset', ann_file=path, data_prefix=dict(img=''), pipeline=[])
        train = DATASETS.build(dict(cfg, filter_cfg=dict(filter_empty_gt=True)))
        test = DATASETS.build(dict(cfg, test_mode=True))
        assert [len(info['instances']) for info in train] == [2, 2, 2]  # image 1 has a rare box only
        assert [len(info['instances']) for info in test] == [3, 1, 3, 3]
        samples = predictions(boxes, {i: i - 1 for i in {c for _, c, *_ in boxes}})
        ours = evaluate(METRICS.build(dict(type='vlm_dense.LVISMetric', ann_file=path)), test.metainfo, samples)
        with mock.patch.object(np, 'float', float, create=True):
            theirs = evaluate(LVISMetric(ann_file=path), test.metainfo, samples)
        assert ours == theirs and {'lvis/bbox_APr', 'lvis/bbox_APc', 'lvis/bbox_APf'} <= set(ours)
        assert 0 < ours['lvis/bbox_APr'] < 1
