"""The page of methods, towers and data sets is made of its rows, and rows of results."""

from __future__ import annotations

import json

import matrix_page
import pytest


def row(method: str, miou: float, tower: str = 'tiny-vit', name: str = 'shapes', **more) -> dict:
    figures = dict(
        images=3, seconds=9.0, processor_seconds=0.0123, work_mb=7.6, device='CPU', threads=1, choices='x', code='y'
    )
    return dict(method=method, tower=tower, set=name, mIoU=miou, **figures) | more


def test_the_page_is_that_of_its_rows():
    rows = json.loads(matrix_page.ROWS.read_text('utf-8'))
    page = matrix_page.PAGE.read_text('utf-8')
    assert matrix_page.tables(rows) in page and rows == matrix_page.merged(rows, [])


def test_a_table_has_a_line_a_method_and_a_dash_where_nothing_was_run():
    text = matrix_page.tables([row('b', 3.21), row('a', 4.0), row('a', 1.0, name='camvid', seconds=None, device=None)])
    assert '| a | 4.0 | 0.012 | 8 | 1.0 | - | 8 |\n| b | 3.2 | 0.012 | 8 | - | - | - |' in text
    assert '- shapes: 3 images; seconds and memory on CPU, 1 threads' in text
    assert 'compare_dense.py --tower vit-b16 --datasets voc21 context60' in text and 'voc21=DIR' in text
    every = [row('a', 1.0, tower, name) for tower, names in matrix_page.TOWERS.items() for name in names]
    assert 'Not run here' in text and 'Not run here' not in matrix_page.tables(every)


def test_newer_rows_replace_older_ones(tmp_path):
    found = matrix_page.merged([row('a', 1.0), row('b', 2.0)], [row('a', 3.0)])
    assert [(one['method'], one['mIoU']) for one in found] == [('a', 3.0), ('b', 2.0)]
    for kind in ('results', 'cost'):
        (tmp_path / kind).mkdir()
    result = dict(config='sc_clip_vit-b16_coco-object', mIoU=5.0, images=2, choices=dict(code=dict(digest='abc')))
    (tmp_path / 'results' / 'r.json').write_text(json.dumps(result))
    (tmp_path / 'cost' / 'r.json').write_text(json.dumps(dict(seconds=1.5, work_mb=2, device='CPU', threads=1)))
    [one] = matrix_page.rows_of(tmp_path)
    assert (one['method'], one['tower'], one['set']) == ('sc_clip', 'vit-b16', 'coco-object')
    assert (one['seconds'], one['mIoU'], one['code']) == (1.5, 5.0, 'abc') and len(one['choices']) == 12
    with pytest.raises(SystemExit, match='holds no results'):
        matrix_page.rows_of(tmp_path / 'nowhere')
