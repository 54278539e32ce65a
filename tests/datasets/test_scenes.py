"""Scenes are deterministic, consistent across domains and sizes, and drawn as their labels say."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from vlm_dense.datasets import scenes
from vlm_dense.datasets.scenes import DOMAINS, PAIRS, draw_scene
from vlm_dense.errors import ConfigError

GOLDEN = [1141632894, 725243833, 1716284100, 1142389683, 3174818737]


def checksum(scene: scenes.Scene) -> int:
    return zlib.crc32(scene.masks.tobytes(), zlib.crc32(scene.image.tobytes()))


def test_pixels_are_those_of_every_other_platform():
    sums = [checksum(draw_scene('0/val/7', (48, 64), (3, 5), domain)) for domain in DOMAINS]
    assert sums == GOLDEN


def test_drawing_leaves_the_global_random_state_alone_and_ignores_it():
    np.random.seed(1)
    first = checksum(draw_scene('a', (32, 32)))
    drawn = np.random.rand()
    np.random.seed(1)
    assert np.random.rand() == drawn
    assert checksum(draw_scene('a', (32, 32))) == first != checksum(draw_scene('b', (32, 32)))


@pytest.mark.parametrize('domain', DOMAINS[1:])
def test_domains_share_layout_but_not_pixels(domain):
    for key in 'abcd':
        source, other = (draw_scene(key, (64, 64), (1, 5), d) for d in ('source', domain))
        for field in ('masks', 'boxes', 'shapes', 'colours'):
            np.testing.assert_array_equal(getattr(source, field), getattr(other, field))
        assert np.abs(source.image.astype(int) - other.image).mean() > 15


def test_a_larger_image_shows_the_same_scene():
    for key in 'abcdef':
        small, large = draw_scene(key, (64, 64), (1, 1)), draw_scene(key, (256, 256), (1, 1))
        assert small.names == large.names
        np.testing.assert_allclose(small.boxes * 4, large.boxes, atol=5)


def test_masks_boxes_and_pixels_agree():
    for i in range(40):
        scene = draw_scene(str(i), (64, 96), (2, 6))
        assert scene.masks.sum(0).max() <= 1, 'visible parts never overlap'
        for mask, box, colour in zip(scene.masks, scene.boxes.astype(int), scene.colours, strict=True):
            rows, cols = np.nonzero(mask)
            assert (box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)).all()
            seen = np.median(scene.image[mask].astype(int), axis=0)
            nearest = np.abs(scenes._RGB - seen).sum(1)
            assert nearest[colour] < 130, 'the object has about the colour of its label'


def test_nearly_hidden_objects_are_left_out_and_one_always_remains():
    counts = [len(draw_scene(str(i), (64, 64), (6, 6)).shapes) for i in range(60)]
    assert 1 <= min(counts) < 6 and max(counts) == 6
    assert all(len(draw_scene(str(i), (64, 64), (1, 1)).shapes) == 1 for i in range(60))
    assert len(draw_scene('x', (64, 64), (0, 0)).shapes) == 0


def test_objects_occlude_each_other():
    touching = 0
    for i in range(60):
        masks = draw_scene(str(i), (64, 64), (4, 4)).masks
        grown = masks[:, 1:] & False
        for a in range(len(masks)):
            grown |= masks[a, 1:] & np.delete(masks, a, 0)[:, :-1].any(0)
        touching += grown.any()
    assert touching > 15


def test_every_pair_appears_and_only_allowed_pairs_do():
    met = {(s, c) for i in range(300) for s, c in zip(*_ids(draw_scene(str(i), (32, 32), (4, 4))), strict=True)}
    assert met == set(PAIRS)
    met = {p for i in range(60) for p in zip(*_ids(draw_scene(str(i), (32, 32), (2, 2), pairs=PAIRS[:3])), strict=True)}
    assert met == set(PAIRS[:3])


def _ids(scene: scenes.Scene) -> tuple[list[int], list[int]]:
    return scene.shapes.tolist(), scene.colours.tolist()


def test_shapes_differ_from_each_other_at_any_rotation():
    """Visible area over the squared extent tells, at least, discs from rings and squares from crosses."""
    areas = {}
    for shape, name in enumerate(scenes.SHAPES):
        areas[name] = scenes._stencil(shape).mean()
    assert areas['circle'] > areas['ring'] and areas['square'] > areas['cross'] > areas['crescent']
    assert len({round(float(a), 4) for a in areas.values()}) == len(areas)
    for shape in range(len(scenes.SHAPES)):
        v, u = np.nonzero(scenes._stencil(shape))
        radius = np.hypot(u + 0.5 - 512, v + 0.5 - 512).max() / 256
        assert 0.8 < radius <= 1.0, 'a shape fills the unit disc and stays within it'


@pytest.mark.parametrize('size', [(16, 16), (17, 301), (333, 40)])
def test_any_size_is_drawn(size):
    for domain in DOMAINS:
        scene = draw_scene('k', size, (1, 16), domain)
        assert scene.image.shape == (*size, 3) and scene.masks.shape[1:] == size


def test_captions_read_as_english():
    assert scenes.list_objects([]) == 'an empty background'
    assert scenes.list_objects(['orange star']) == 'an orange star'
    assert scenes.list_objects(['red ring', 'blue heart']) == 'a red ring and a blue heart'
    assert scenes.list_objects(['red ring', 'blue heart', 'pink star']) == 'a red ring, a blue heart and a pink star'


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (((8, 64),), 'at least 16 px'),
        (((64, 64), (3, 2)), 'least, greatest'),
        (((64, 64), (1, 17)), r'0\.\.16'),
        (((64, 64), (1, 2), 'sketchy'), "Did you mean 'sketch'"),
    ],
)
def test_impossible_scenes_are_refused(args, message):
    with pytest.raises(ConfigError, match=message):
        draw_scene('k', *args)
