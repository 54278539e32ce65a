"""What is told of a config before anything is built."""

from __future__ import annotations

import pytest
from engine.toy import write_config, write_data
from mmengine.registry import init_default_scope

from vlm_dense.datasets.config_checks import check_data, class_names
from vlm_dense.engine.configs.checks import check_class_count
from vlm_dense.engine.runner.launch import load_config
from vlm_dense.errors import ClassNamesError, DataError


@pytest.fixture
def data(tmp_path):
    init_default_scope('mmseg')
    return write_data(tmp_path / 'data', train=5, val=2)


def config(tmp_path, data, **options):
    return load_config(write_config(tmp_path, data), options)


def test_data_that_are_there_pass(tmp_path, data):
    check_data(config(tmp_path, data))


def test_a_missing_root_is_told_with_what_belongs_there(tmp_path):
    init_default_scope('mmseg')
    with pytest.raises(DataError, match=r'(?s)nowhere does not exist.*MISSING.*images/val/\*\.png.*--data-root DIR'):
        check_data(config(tmp_path, tmp_path / 'nowhere'))


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('denseclip_ade20k', 'ADEChallengeData2016.zip'), ('maskclip_vit-b16_coco-stuff', 'stuffthingmaps')],
)
def test_of_absent_public_data_it_says_where_they_come_from(name, expected):
    cfg = load_config(name)
    init_default_scope('mmseg')
    with pytest.raises(DataError, match=rf'(?s)They are in .*{expected}.*say where: --data-root DIR'):
        check_data(cfg, ('test_dataloader',))


def test_only_the_loaders_in_use_are_looked_at(tmp_path, data):
    (data / 'images' / 'val').rename(data / 'elsewhere')
    check_data(config(tmp_path, data), ('train_dataloader',))
    with pytest.raises(DataError, match=r'(?s)part of them is missing.*found .*images/train.*MISSING.*images/val'):
        check_data(config(tmp_path, data))


def test_images_without_masks_are_named_and_counted(tmp_path, data):
    for name in ('1.png', '3.png'):
        (data / 'masks' / 'train' / name).unlink()
    with pytest.raises(DataError, match=r'2 of 5 masks are missing: .*masks/train/1.png, .*3.png'):
        check_data(config(tmp_path, data))


def test_an_empty_split_is_named_with_what_is_there(tmp_path, data):
    with pytest.raises(DataError, match=r'is empty: no .tif image in .*images/train, but files ending in .png'):
        check_data(config(tmp_path, data, **{'train_dataloader.dataset.img_suffix': '.tif'}))


def test_wrapped_data_sets_are_looked_at(tmp_path, data):
    cfg = config(tmp_path, data)
    inner = dict(cfg.train_dataloader.dataset, data_root=str(tmp_path / 'nowhere'))
    both = [cfg.train_dataloader.dataset, inner]
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=both)
    )
    with pytest.raises(DataError, match=r'train_dataloader.dataset.dataset.datasets.1'):
        check_data(cfg)


def test_class_names_come_from_the_data_set_without_reading_it(tmp_path):
    init_default_scope('mmseg')
    cfg = config(tmp_path, tmp_path / 'nowhere')
    assert class_names(cfg) == ('sky', 'road', 'car')


def test_a_class_count_unlike_the_heads_is_refused(tmp_path):
    init_default_scope('mmseg')
    cfg = config(tmp_path, tmp_path, **{'model.decode_head.num_classes': 19})
    with pytest.raises(ClassNamesError, match=r'3 classes .* model.decode_head.num_classes=19'):
        check_class_count(cfg, class_names(cfg))


def test_a_deletion_of_what_the_base_has_not_is_forgotten(tmp_path):
    (tmp_path / 'base.py').write_text("model = dict(type='A', head=dict(type='B', width=3))")
    text = (
        "_base_ = './base.py'\nmodel = dict(prompt=dict(_delete_=True, type='C'), head=dict(_delete_=True, type='D'))"
    )
    (tmp_path / 'config.py').write_text(text)
    cfg = load_config(str(tmp_path / 'config.py'))
    assert cfg.model == dict(type='A', prompt=dict(type='C'), head=dict(type='D'))
