"""The table of docs/components.md: each component in configs of mmseg's and mmdet's wheels, by their own programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tools' / 'dev'))

from stock_components import COLUMNS, CONFIGS, WORKS, cells, kept  # noqa: E402

TABLE = kept(ROOT / 'docs' / 'components.md')
EVERY = [(library, path) for library, paths in CONFIGS.items() for path in paths]


def test_the_table_has_every_config_and_refuses_only_what_a_detector_has_no_place_for():
    assert list(TABLE) == [f'{library}::{path}' for library, path in EVERY]
    assert len(CONFIGS['mmseg']) >= 10 and len(CONFIGS['mmdet']) >= 6
    for name, row in TABLE.items():
        refused = {column for column in COLUMNS if row[column] != WORKS}
        if name.startswith('mmseg'):
            assert not refused, name
        elif 'yolox' in name:  # three stages, which only a ResNet gives: it takes no tokens, and has no pool here
            assert refused == {'tower and VPT', 'tower and LoRA', 'PixelTextHead', 'PseudoLabelHook'}
        else:
            assert refused == {'PixelTextHead', 'PseudoLabelHook'}, name


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(('library', 'path'), EVERY, ids=lambda value: value.partition('/')[0])
def test_a_stock_config_takes_the_components_as_the_table_says(library, path, tmp_path):
    assert cells(path, tmp_path) == {(library, path): TABLE[f'{library}::{path}']}
