"""What the inferencers take for a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vlm_dense.inference.common import load_picture, picture_list


def test_pictures_of_pil_are_turned_and_have_their_colours():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0], pixels[0, 0] = 200, (1, 2, 3)
    picture = Image.fromarray(pixels)
    (plain,) = picture_list(picture)
    assert plain.shape == (4, 6, 3) and plain[0, 0].tolist() == [3, 2, 1] and plain[1, 1].tolist() == [0, 0, 200]
    picture.getexif()[0x0112] = 6  # a quarter to the right
    (turned,) = picture_list([picture])
    assert turned.shape == (6, 4, 3) and turned[0, -1].tolist() == [3, 2, 1]


def test_grey_arrays_get_three_channels():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for given in (grey, grey[..., None]):
        (picture,) = picture_list([given])
        assert np.array_equal(load_picture(picture), np.stack([grey] * 3, -1))
