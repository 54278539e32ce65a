"""Rasters by windows: each pixel once, georeference kept, memory that of a window."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from vlm_dense.colours import class_colours
from vlm_dense.errors import ConfigError, DataError, MissingLibraryError
from vlm_dense.inference.raster import segment_raster, windows

rasterio = pytest.importorskip('rasterio')
NAMES = ['dark', 'bright']


class Segmentor:
    """Labels what is bright, and keeps the sizes of the images."""

    limits, show_progress = None, False

    def __init__(self):
        self.sizes = []

    def view(self, classes=None):
        return type('View', (), dict(class_names=list(classes or NAMES)))

    def preprocess(self, images):
        self.sizes += [image.shape[:2] for image in images]
        return images

    def forward(self, images, view):
        return [(x[..., 2] > 128).astype(np.uint8) for x in images]  # red

    def postprocess(self, samples, view):
        return [dict(predictions=labels) for labels in samples]


def write(path, values: np.ndarray, **profile) -> str:
    count, height, width = values.shape
    with rasterio.open(path, 'w', 'GTiff', width, height, count, dtype=values.dtype, **profile) as file:
        file.write(values)
    return str(path)


def test_windows_cover_each_pixel_once_and_lie_inside():
    for width, height, side, overlap in ((100, 70, 32, 8), (20, 20, 64, 32), (65, 33, 32, 0), (64, 64, 32, 16)):
        seen = np.zeros((height, width), int)
        for outer, inner in windows(width, height, side, overlap):
            top, left, tall, wide = inner
            seen[top : top + tall, left : left + wide] += 1
            assert outer[0] <= top and outer[1] <= left and outer[2:] == (min(side, height), min(side, width))
            assert all(
                begin == 0 or at - begin >= overlap // 2 for at, begin in zip((top, left), outer[:2], strict=True)
            )
            assert outer[0] + outer[2] >= top + tall and outer[0] + outer[2] <= height
            assert outer[1] + outer[3] >= left + wide and outer[1] + outer[3] <= width
        assert (seen == 1).all()


def test_labels_lie_where_the_raster_lies(tmp_path):
    values = np.zeros((4, 300, 400), np.uint8)
    values[0, 100:, 150:] = 255  # red; the fourth band is no colour
    values[:3, :30, :40] = 7  # no data
    crs, transform = 'EPSG:32633', rasterio.Affine(10, 0, 500_000, 0, -10, 5_200_000)
    path = write(tmp_path / 'map.tif', values, crs=crs, transform=transform, nodata=7)
    model = Segmentor()
    found = segment_raster(model, path, tmp_path / 'out', window=128, overlap=32)
    with rasterio.open(found['files']['pred']) as labels:
        assert labels.crs == crs and labels.transform == transform and labels.nodata == 255
        assert labels.tags()['class_1'] == 'bright' and labels.colormap(1)[1][:3] == class_colours(NAMES)[1]
        expected = (values[0] == 255).astype(np.uint8)
        expected[:30, :40] = 255
        np.testing.assert_array_equal(labels.read(1), expected)
    share = 200 * 250 / (300 * 400 - 30 * 40)
    assert found['size'] == (400, 300) and found['shares'] == pytest.approx([1 - share, share])
    assert max(max(size) for size in model.sizes) <= 128 and Image.open(found['files']['vis']).width > 400


def test_wide_values_are_stretched_and_bands_chosen(tmp_path):
    values = np.random.default_rng(0).integers(900, 1100, (2, 64, 64)).astype(np.uint16)
    values[1, :32] += 2000
    path = write(tmp_path / 'wide.tif', values)
    found = segment_raster(Segmentor(), path, tmp_path / 'out', window=64, overlap=0, bands=(2, 1, 1))
    with rasterio.open(found['files']['pred']) as labels:
        np.testing.assert_array_equal(labels.read(1)[:, 0], np.repeat([1, 0], 32))


def test_what_cannot_be_done_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / 'small.tif', np.zeros((1, 20, 20), np.uint8))
    with pytest.raises(DataError, match='has 1 bands'):
        segment_raster(Segmentor(), path, tmp_path / 'out', bands=(1, 2, 3))
    with pytest.raises(ConfigError, match='found 64 px and 40 px'):
        segment_raster(Segmentor(), path, tmp_path / 'out', window=64, overlap=40)
    with pytest.raises(ConfigError, match='found 256'):
        segment_raster(Segmentor(), path, tmp_path / 'out', [f'c{i}' for i in range(256)])
    (tmp_path / 'junk.tif').write_bytes(b'II*\x00junk')
    with pytest.raises(DataError, match='junk.tif'):
        segment_raster(Segmentor(), tmp_path / 'junk.tif', tmp_path / 'out')
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(MissingLibraryError, match='extra geo'):
        segment_raster(Segmentor(), path, tmp_path / 'out')
