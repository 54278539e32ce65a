"""The reader of official cases: every form of images that a card describes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from official import inputs


def drawn(name: str, *shape: int) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def test_images_around_one_image_of_blocks_a_class():
    entry = dict(base='b', num_classes=3, size=8, block=4, base_scale=2.0, labels=[2, 0, 2, 1], noise='n')
    images = inputs(dict(entry, noise_scale=0.5)).numpy()
    base, noise = drawn('b', 3, 3, 2, 2), drawn('n', 4, 3, 8, 8)
    assert images.shape == (4, 3, 8, 8) and images.dtype == np.float32
    for i, label in enumerate(entry['labels']):
        for channel, y, x in np.ndindex(3, 8, 8):
            wanted = 2.0 * base[label, channel, y // 4, x // 4] + 0.5 * noise[i, channel, y, x]
            assert images[i, channel, y, x] == pytest.approx(wanted, abs=1e-5)


def test_images_and_arrays_are_drawn_by_their_names():
    np.testing.assert_array_equal(
        inputs(['image_batch', 'x/y', 2, 4]).numpy(), drawn('images/x/y', 2, 3, 4, 4).astype(np.float32)
    )
    np.testing.assert_allclose(inputs(['array', 'x', [2, 5], 3.0]).numpy(), 3 * drawn('x', 2, 5), rtol=1e-6)
    with pytest.raises(ValueError, match='unknown input entry'):
        inputs(['photo', 'x'])
