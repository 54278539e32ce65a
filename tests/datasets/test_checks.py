"""What is told of files as they are read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from vlm_dense.datasets.checks import CheckSeg, LoadImage
from vlm_dense.errors import DataError

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
