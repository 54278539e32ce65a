from __future__ import annotations

import cv2
import numpy as np
import pytest
from engine.toy import write_config, write_data
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from vlm_dense.datasets.checks import CheckSeg, LoadImage, check_class_count, check_data, class_names
from vlm_dense.engine.launch import load_config
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


IMAGE = np.random.RandomState(0).randint(0, 255, (6, 8, 3), np.uint8)
IMAGES = {
    'grey': Image.fromarray(IMAGE[..., 0]),
    'rgba': Image.fromarray(np.dstack([IMAGE, IMAGE[..., 0]])),
    'palette': Image.fromarray(IMAGE).convert('P'),
    'wide': Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 257),
}


@pytest.mark.parametrize('kind', IMAGES)
def test_images_of_any_mode_give_three_channels(tmp_path, kind):
    path = tmp_path / 'a.png'
    IMAGES[kind].save(path)
    image = LoadImage()(dict(img_path=str(path)))['img']
    assert image.shape == (6, 8, 3) and image.dtype == np.uint8
    if kind in ('grey', 'wide'):
        assert (image == IMAGE[..., :1]).all()
    if kind == 'rgba':
        assert (image[..., ::-1] == IMAGE).all()


@pytest.mark.parametrize('content', [b'', b'no image', cv2.imencode('.png', IMAGE)[1].tobytes()[:60], None])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / 'bad.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r'bad.png .*(cannot be read|does not exist)'):
        LoadImage()(dict(img_path=str(path)))


def checked(tmp_path, mask, num_classes=3, reduce_zero_label=False):
    path = tmp_path / 'mask.png'
    Image.fromarray(mask).save(path)
    info = dict(
        img_path='a.png',
        seg_map_path=str(path),
        seg_fields=[],
        ori_shape=(6, 8),
        reduce_zero_label=reduce_zero_label,
        label_map=None,
    )
    init_default_scope('mmseg')
    return Compose([dict(type='mmseg.LoadAnnotations'), CheckSeg(num_classes)])(info)


def test_labels_in_range_and_ignored_pixels_pass(tmp_path):
    checked(tmp_path, np.array([[0, 1, 2, 255] * 2] * 6, np.uint8))
    checked(tmp_path, np.array([[0, 1, 2, 3] * 2] * 6, np.uint8), reduce_zero_label=True)


@pytest.mark.parametrize(
    ('mask', 'found'),
    [
        (np.full((6, 8), 7, np.uint8), r'mask.png holds the label 7 in 48 pixels. Expected 0 to 2, or 255'),
        (np.full((6, 8), 256, np.uint16), r'mask.png holds the label 256, more than 8 bits'),
        (IMAGE, r'mask.png has 3 channels'),
        (np.zeros((6, 9), np.uint8), r'mask.png has 9x6 pixels, its image a.png 8x6'),
    ],
)
def test_a_mask_that_cannot_be_right_is_named(tmp_path, mask, found):
    with pytest.raises(DataError, match=found):
        checked(tmp_path, mask)
