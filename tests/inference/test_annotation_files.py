"""Results as COCO and LabelMe files, of segments and of objects."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from vlm_dense.datasets.shapes import coco_mask
from vlm_dense.errors import ConfigError
from vlm_dense.inference import mask_files

NAMES = ['sky', 'car']


def labels() -> np.ndarray:
    found = np.zeros((20, 30), np.uint8)
    found[5:10, 4:16] = 1
    return found


def objects(masks: bool) -> dict:
    found = dict(labels=[1, 0], scores=[0.9, 0.5], bboxes=[[4.0, 5.0, 16.0, 10.0], [0.0, 0.0, 30.0, 3.0]])
    if masks:
        code = coco_mask(labels() == 1)
        found['masks'] = [code, code]
    return found


@pytest.mark.parametrize('masks', [False, True])
def test_objects_are_read_again_where_they_were(masks, tmp_path):
    found = objects(masks), NAMES, 'a.jpg', (20, 30)
    files = mask_files.annotation_files(str(tmp_path), ['a', 'b'], ('coco', 'labelme'))
    one = dict(coco=mask_files.objects_coco(*found), labelme=mask_files.objects_labelme(*found))
    mask_files.write_annotations(files, [one, one])
    coco = COCO(str(tmp_path / 'coco.json'))
    assert len(coco.imgs) == 2 and len(coco.anns) == 4 and [c['name'] for c in coco.cats.values()] == NAMES
    first, second = coco.loadAnns(coco.getAnnIds(imgIds=2))
    assert first['bbox'] == [4, 5, 12, 5] and first['area'] == 60 and first['score'] == 0.9
    assert coco.cats[second['category_id']]['name'] == 'sky'
    if masks:
        np.testing.assert_array_equal(run_lengths.decode(first['segmentation']), labels())
    shapes = one['labelme']['shapes']
    assert [each['label'] for each in shapes] == ['car', 'sky'] and one['labelme']['imageHeight'] == 20
    assert shapes[0]['shape_type'] == ('polygon' if masks else 'rectangle')
    points = np.array(shapes[0]['points'])
    assert points.min(0).tolist() == [4, 5] and points.max(0).tolist() == ([15, 9] if masks else [16, 10])


def test_label_maps_of_several_images_are_one_file():
    content = mask_files.joined([mask_files.coco_of(labels(), NAMES, name) for name in ('a.jpg', 'b.jpg')])
    assert [image['file_name'] for image in content['images']] == ['a.jpg', 'b.jpg']
    assert [(one['id'], one['image_id'], one['category_id']) for one in content['annotations']] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 2, 1),
        (4, 2, 2),
    ]


def test_an_unknown_format_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'labelme'"):
        mask_files.check_formats(['labelmee'])
