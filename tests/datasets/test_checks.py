"""What is told of files as they are read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from PIL import Image, ImageFile

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


@pytest.mark.parametrize('place', ['before', 'after'])
def test_a_png_is_turned_wherever_its_exif_stands(tmp_path, place):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(IMAGE).save(tmp_path / 'a.png', exif=exif)
    png = (tmp_path / 'a.png').read_bytes()
    start = png.index(b'eXIf') - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], 'big')
    rest, chunk = png[:start] + png[end:], png[start:end]
    at = rest.index(b'IDAT' if place == 'before' else b'IEND') - 4
    (tmp_path / 'a.png').write_bytes(rest[:at] + chunk + rest[at:])
    image = LoadImage()(dict(img_path=str(tmp_path / 'a.png')))['img']
    assert (image[..., ::-1] == np.rot90(IMAGE, -1)).all()


def test_a_png_without_exif_is_decoded_once_and_refused_if_damaged(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), IMAGE)
    whole = path.read_bytes()
    monkeypatch.setattr(ImageFile.ImageFile, 'load', lambda self: pytest.fail('decoded by Pillow too'))
    assert (LoadImage()(dict(img_path=str(path)))['img'] == IMAGE).all()
    flipped = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(45, len(whole) - 20, 16)]
    for damaged in [*(whole[:at] for at in range(20, len(whole) - 12, 16)), *flipped]:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r'a\.png .* cannot be read'):
            LoadImage()(dict(img_path=str(path)))


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
