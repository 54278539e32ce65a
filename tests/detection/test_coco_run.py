"""The published detector's config: without data, without weights, and on a miniature of both."""

from __future__ import annotations

import json

import pytest
from engine.published import NO_WORKERS, ROOT, message, trained, weights_at, write_rn50
from mmdet.datasets import CocoDataset

from vlm_dense.datasets import ShapesDataset
from vlm_dense.engine.runner.launch import load_config

CONFIG = str(ROOT / 'configs' / 'denseclip' / 'denseclip_mask-rcnn_r50_coco.py')
SMALL = [
    *NO_WORKERS,
    'val_dataloader.dataset.indices=2',
    'train_dataloader.dataset.pipeline.2.scale=(96,64)',
    'val_dataloader.dataset.pipeline.1.scale=(96,64)',
    'model.train_cfg.rpn_proposal.max_per_img=20',
    'model.test_cfg.rpn.max_per_img=20',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint=None',
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Drawn scenes in COCO's layout and with its 80 categories: every shape is called by one of them."""
    root = tmp_path_factory.mktemp('coco')
    names = CocoDataset.METAINFO['classes']
    (root / 'annotations').mkdir()
    for split, count in (('train', 4), ('val', 3)):
        ShapesDataset(count, split, size=(64, 96), num_objects=(2, 4)).write_coco(root / split)
        content = json.loads((root / split / 'annotations.json').read_text())
        content['categories'] = [dict(id=i, name=n) for i, n in enumerate(names, start=1)]
        (root / split / 'images').rename(root / f'{split}2017')
        (root / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(content))
    return root


def test_without_data_the_files_that_are_missing_are_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = message(capsys, CONFIG, '--work-dir', str(tmp_path / 'work'))
    assert 'annotations/instances_train2017.json' in text and 'train2017' in text and '--data-root DIR' in text


def test_without_weights_the_file_and_a_bundled_model_are_named(capsys, data, tmp_path):
    absent = str(tmp_path / 'RN50.pt')
    options = ['--cfg-options', *SMALL, *weights_at(absent), 'visualizer.name=coco_absent']
    text = message(capsys, CONFIG, '--data-root', str(data), '--work-dir', str(tmp_path / 'work'), *options)
    assert absent in text and 'tiny-rn' in text


def test_another_number_of_classes_is_explained(capsys, data, tmp_path):
    options = ['--cfg-options', *SMALL, 'train_dataloader.dataset.metainfo.classes=("person","bicycle")']
    text = message(capsys, CONFIG, '--data-root', str(data), '--work-dir', str(tmp_path / 'work'), *options)
    assert 'The data set has 2 classes' in text and 'model.roi_head.mask_head.num_classes=2' in text


def test_images_that_the_annotations_name_and_that_do_not_exist_are_told(capsys, data, tmp_path):
    content = json.loads((data / 'annotations' / 'instances_train2017.json').read_text())
    content['images'][0]['file_name'] = 'lost.png'
    odd = tmp_path / 'odd.json'
    odd.write_text(json.dumps(content))
    tiny = ['model.backbone.arch=tiny-rn', 'model.text_encoder.arch=tiny-rn', *weights_at('bundled')]
    tiny.append('model.neck.in_channels=[96,192,384,848]')
    options = ['--cfg-options', *SMALL, *tiny, f'train_dataloader.dataset.ann_file={odd}', 'visualizer.name=coco_lost']
    text = message(capsys, CONFIG, '--data-root', str(data), '--work-dir', str(tmp_path / 'work'), *options)
    assert 'of which 1 do not exist' in text and 'lost.png' in text


def test_data_root_moves_the_evaluators_annotations_too(tmp_path):
    cfg = load_config(CONFIG, dict(data_root=str(tmp_path)))
    assert cfg.val_dataloader.dataset.data_root == str(tmp_path)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file == str(tmp_path / 'annotations' / 'instances_val2017.json')
    assert cfg.train_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'


def test_it_trains_and_validates_on_openais_layout(data, tmp_path):
    work, weights = tmp_path / 'work', weights_at(write_rn50(tmp_path / 'RN50.pt'))
    rows = trained(CONFIG, data, work, *SMALL, *weights, 'visualizer.name=coco_present')
    losses = [r for r in rows if 'loss' in r]
    assert len(losses) == 2 and all(r['loss_aux_seg'] > 0 and r['loss_mask'] > 0 for r in losses)
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(rows[-1])
    assert [p.name for p in (work / 'vis').glob('*.png')] == ['iter_2.png']
