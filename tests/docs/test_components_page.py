"""What docs/components.md shows can be written in a config: types that exist, with arguments that they take."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from vlm_dense.registry import HOOKS, MODELS, TRANSFORMS

PAGE = (Path(__file__).parents[2] / 'docs' / 'components.md').read_text(encoding='utf-8')
BLOCKS = [b for b in re.findall(r'```python\n(.*?)```', PAGE, re.S) if 'import' not in b]
INLINE = re.findall(r'`(dict\(type=.*?\))`', PAGE)


for registry in (HOOKS, TRANSFORMS, MODELS):
    registry.import_from_location()


def parts(value):
    """Every dict of ours in a config."""
    if isinstance(value, dict):
        if str(value.get('type', '')).startswith('vlm_dense.'):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from parts(one)


@pytest.mark.parametrize('text', [*BLOCKS, *(f'part = {one}' for one in INLINE)])
def test_a_part_takes_its_arguments(text, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(text)
    cfg = Config.fromfile(path).to_dict()
    assert cfg
    for part in parts(cfg):
        name = part['type'].removeprefix('vlm_dense.')
        kind = next(r.get(name) for r in (HOOKS, TRANSFORMS, MODELS) if name in r.module_dict or r is MODELS)
        known = inspect.signature(kind).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
        assert open_ended or set(part) - {'type', '_delete_'} <= set(known), part


def test_every_component_of_the_page_is_shown():
    shown = {part['type'] for text in BLOCKS for part in parts(Config.fromstring(text, '.py').to_dict())}
    listed = set(re.findall(r'^\| `(vlm_dense\.\w+)`', PAGE, re.M)) - {'vlm_dense.ClassNamesHook'}
    assert listed and listed <= shown
