"""What the inferencers take for an image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vlm_dense.inference.images import image_list, load_image


def test_images_of_pil_are_turned_and_have_their_colours():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0], pixels[0, 0] = 200, (1, 2, 3)
    image = Image.fromarray(pixels)
    (plain,) = image_list(image)
    assert plain.shape == (4, 6, 3) and plain[0, 0].tolist() == [3, 2, 1] and plain[1, 1].tolist() == [0, 0, 200]
    image.getexif()[0x0112] = 6  # a quarter to the right
    (turned,) = image_list([image])
    assert turned.shape == (6, 4, 3) and turned[0, -1].tolist() == [3, 2, 1]


def test_grey_arrays_get_three_channels():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for given in (grey, grey[..., None]):
        (image,) = image_list([given])
        assert np.array_equal(load_image(image), np.stack([grey] * 3, -1))
