"""Images of results: one colour a class everywhere, labels that do not cover each other, warnings that are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from vlm_dense.colours import class_colours
from vlm_dense.datasets import ShapesDataset
from vlm_dense.drawing import _free_place, draw_captions, draw_instances, draw_rows, wrapped
from vlm_dense.inference.maskclip_models import limits_of, maskclip_config, note_on

NAMES = ['circle', 'star']
META = dict(classes=NAMES, palette=class_colours(NAMES))


def test_a_shape_has_one_colour_in_the_data_set_and_in_results():
    for background in (False, True):
        meta = ShapesDataset(1, label='shape', background=background).metainfo
        assert [tuple(colour) for colour in meta['palette']] == class_colours(meta['classes'])
    assert class_colours(['sky', 'star'])[1] == class_colours(NAMES)[1]


@pytest.mark.parametrize('masks', [False, True])
def test_objects_have_the_colours_of_their_classes(masks):
    image = np.full((100, 100, 3), 100, np.uint8)
    found = InstanceData(bboxes=torch.tensor([[10.0, 30, 60, 90]]), labels=torch.tensor([1]))
    if masks:
        found.masks = torch.zeros(1, 100, 100)
        found.masks[0, 30:90, 10:60] = 1
    drawn = draw_instances(image, found, META, 200)
    star = np.array(META['palette'][1])
    assert drawn.shape == (200, 200, 3) and (drawn[120, 20] == star).all()  # the border
    expected = 0.35 * 100 + 0.65 * star if masks else 100
    assert np.abs(drawn[120, 60] - expected).max() <= 1 and (drawn[10, 150] == 100).all() and (image == 100).all()


def test_labels_of_objects_stay_in_the_image_and_apart():
    taken = []
    for x in range(6):
        taken.append(_free_place(np.array([x, 0, 60 + x, 50]), (50, 17), (200, 200), taken))
    for i, a in enumerate(taken):
        assert a[0] >= 0 and a[1] >= 0 and a[2] <= 200 and a[3] <= 200
        for b in taken[:i]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_no_object_leaves_the_image_as_it_is():
    image = np.zeros((20, 20, 3), np.uint8)
    found = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0))
    assert not draw_instances(image, found, META, 40).any()


def test_a_model_of_drawn_shapes_says_what_it_does_not_know():
    limits = limits_of(maskclip_config('tiny-vit', 'bundled'))
    note = note_on(limits, ['sky', 'red star', 'road'])
    assert note == "Not meaningful: this model knows drawn shapes only, not 'sky', 'road'."
    assert note_on(limits, ['empty background', 'circle', 'small star']) is None
    assert note_on(None, ['sky']) is None
    tile = np.full((50, 50, 3), 255, np.uint8)
    plain, warned = (draw_rows([[tile]], ['a'], tile=200, note=text) for text in ('', note))
    assert warned.height > plain.height and warned.crop((0, warned.height - plain.height, 212, warned.height)) == plain
    red = np.asarray(draw_captions([tile], ['sky 90%'], note))
    assert ((red[..., 0] > 150) & (red[..., 1] < 60)).sum() > 50


def test_words_are_wrapped_and_captions_cut():
    font = type('Font', (), dict(getlength=lambda self, text: len(text)))()
    assert wrapped('aa bb cc dd', font, 5) == ['aa bb', 'cc dd'] and wrapped('', font, 5) == []
    tiles = [np.zeros((10, 20, 3), np.uint8)] * 7
    sheet = draw_captions(tiles, ['a very long name of a class ' * 3] * 7, tile=50)
    assert sheet.size == (6 * 58 + 8, 8 + 2 * 78)
